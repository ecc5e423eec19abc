// Calls to the service that serves this page. Errors are `Problem`s, by RFC 9457.

export class Problem extends Error {
  /** @param {{title: string, status: number, detail?: string, members?: object[]}} document */
  constructor(document) {
    super(document.detail ?? document.title);
    this.document = document;
    this.status = document.status;
  }
}

/** A text that the browser keeps under a name; where that is not allowed, the page does. */
export function kept(storage, name) {
  let here = "";
  return {
    get() {
      try {
        return storage().getItem(name) ?? "";
      } catch {
        return here;
      }
    },
    set(value) {
      here = value;
      try {
        if (value) storage().setItem(name, value);
        else storage().removeItem(name);
      } catch {
        // this tab has it
      }
    },
  };
}

export const key = kept(() => sessionStorage, "starboard-key");

/** The JSON of a route; `body` makes it a POST. */
export async function call(path, { body, method, signal } = {}) {
  const response = await send(path, { body, method, signal });
  return response.status === 204 ? null : whole(response.json());
}

/** A route's body, as a file to keep. */
export async function download(path, name) {
  const blob = await whole((await send(path)).blob());
  const link = Object.assign(document.createElement("a"), {
    href: URL.createObjectURL(blob),
    download: name,
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // some browsers begin later
}

/** The server-sent events that answer a POST, as `{event, data}`. */
export async function* events(path, body, signal) {
  const response = await send(path, { body, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    let event = "";
    let data = [];
    for await (const line of lines(reader)) {
      const [name, value = ""] = line.split(/: ?(.*)/s);
      if (name === "event") event = value;
      else if (name === "data") data.push(value);
      else if (line === "") {
        if (event && data.length) yield { event, data: JSON.parse(data.join("\n")) };
        event = "";
        data = [];
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever listened has left, or the connection broke
  }
}

/** Lines that end by LF, CR or both, without their ends; what comes last without an end is lost. */
async function* lines(reader) {
  let open = []; // pieces of a line whose end has not come
  let afterReturn = false;
  for (;;) {
    const { done, value } = await whole(reader.read());
    if (done) return;
    const came = afterReturn && value.startsWith("\n") ? value.slice(1) : value;
    if (value) afterReturn = value.endsWith("\r");
    const [first, ...more] = came.split(/\r\n|\r|\n/);
    open.push(first);
    for (const next of more) {
      yield open.join("");
      open = [next];
    }
  }
}

/** What comes of reading a response; a connection that breaks is a `Problem`. */
async function whole(reading) {
  try {
    return await reading;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem({ title: "The connection broke", status: 0, detail: "The connection ended before all had come." });
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
  if (/[^\x21-\x7e]/.test(key.get()))
    throw new Problem({ title: "The key cannot be sent", status: 401, detail: "Keys are letters, digits and signs of ASCII." });
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
