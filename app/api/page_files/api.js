// Calls to the service that serves this page. Errors are `Problem`s, by RFC 9457.

const KEY = "starboard-key";

export class Problem extends Error {
  /** @param {{title: string, status: number, detail?: string, members?: object[]}} document */
  constructor(document) {
    super(document.detail ?? document.title);
    this.document = document;
    this.status = document.status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** The JSON of a route; `body` makes it a POST. */
export async function call(path, { body, method, signal } = {}) {
  const response = await send(path, { body, method, signal });
  return response.status === 204 ? null : response.json();
}

/** A route's body, as a file to keep. */
export async function download(path, name) {
  const blob = await (await send(path)).blob();
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(blob),
    download: name,
  });
  link.click();
  URL.revokeObjectURL(link.href);
}

/** The server-sent events that answer a POST, as `{event, data}`. */
export async function* events(path, body, signal) {
  const response = await send(path, { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(
        block.split("\n").map((line) => {
          const colon = line.indexOf(":");
          return [line.slice(0, colon), line.slice(colon + 1).trimStart()];
        }),
      );
      if (fields.event) yield { event: fields.event, data: JSON.parse(fields.data) };
    }
  }
}

/** A query string of what is given: no empty value, a list repeated. */
export function query(values) {
  const pairs = Object.entries(values).flatMap(([name, value]) =>
    [value].flat().map((one) => [name, one]),
  );
  const given = pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

async function send(path, { body, method, signal } = {}) {
  const headers = {};
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: method ?? (body ? "POST" : "GET"),
      headers,
      body: body && JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "The service does not answer", status: 0, detail: "The service does not answer: is it running?" });
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => null);
  throw new Problem(said?.title ? said : { title: response.statusText || "Error", status: response.status });
}
