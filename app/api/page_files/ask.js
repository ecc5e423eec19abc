// Ask: the form, the run as it comes, and the answer.

import { AnswerView, weightSliders } from "./answer.js";
import { call, events, Problem } from "./api.js";
import { points, seconds } from "./formats.js";
import { field, problem, say, select } from "./parts.js";
import { ATTRIBUTES, PUBLISHED } from "./ranking.js";
import { html, nothing } from "./vendor/lit-html.js";

const STRATEGIES = [
  ["best_of_n", "best of n: the highest reward"],
  ["majority_vote", "majority vote: the most frequent answer"],
  ["weighted_vote", "weighted vote: votes weighed by reward"],
  ["cascade", "cascade: one after the other until one is good"],
  ["first_good", "first good: the first that is good enough"],
  ["fuse", "fuse: a reply made from the best"],
  ["single", "single: the first member alone"],
];

export class Ask {
  #leave = null;

  constructor(redraw) {
    this.redraw = redraw;
    this.seats = null;
    this.form = {
      prompt: "",
      system: "",
      turns: null, // of a conversation that is asked again
      members: null,
      strategy: "best_of_n",
      samples: 1,
      threshold: "",
      max_tokens: "",
      deadline_s: "",
      weights: { ...PUBLISHED },
      kept: { plan: {} }, // of an answer that is asked again: what the form does not show
    };
    this.run = null; // Map of members to their candidates, null while they are at work
    this.view = null;
    this.fault = null;
  }

  async open(parameters) {
    try {
      this.seats = (await call("models")).members.filter((one) => one.seated);
      this.form.members ??= new Set(this.seats.map((one) => one.name));
      if (parameters.get("from")) await this.#askedBefore(parameters);
    } catch (error) {
      this.fault = error;
    }
    this.redraw();
  }

  close() {
    this.#leave?.abort();
  }

  async #askedBefore(parameters) {
    const before = await call(`answers/${parameters.get("from")}/request`);
    const turns = before.messages.filter((one) => one.role !== "system");
    const seated = this.seats.map((one) => one.name);
    Object.assign(this.form, {
      prompt: turns.at(-1).content,
      turns: turns.length > 1 ? turns.slice(0, -1) : null,
      system: before.messages.filter((one) => one.role === "system").map((one) => one.content).join("\n\n"),
      members: new Set(before.members.filter((name) => seated.includes(name))),
      strategy: before.plan.strategy,
      samples: before.plan.samples,
      threshold: before.plan.threshold ?? "",
      max_tokens: before.max_tokens,
      deadline_s: before.deadline_s,
      weights: { ...before.weights },
      kept: { temperature: before.temperature, tags: before.tags, plan: before.plan },
    });
    const weights = parameters.get("weights")?.split(",").map(Number) ?? [];
    if (weights.length === ATTRIBUTES.length && weights.every(Number.isFinite))
      this.form.weights = Object.fromEntries(ATTRIBUTES.map((name, at) => [name, weights[at]]));
  }

  #body() {
    const { form } = this;
    const system = form.system.trim() ? { system: form.system } : {};
    const asked = form.turns
      ? { messages: [...form.turns, { role: "user", content: form.prompt }] }
      : { prompt: form.prompt };
    const plan = {
      ...form.kept.plan,
      strategy: form.strategy,
      samples: Number(form.samples),
      threshold: form.threshold === "" ? null : Number(form.threshold),
    };
    return {
      ...form.kept,
      ...asked,
      ...system,
      members: [...form.members],
      weights: form.weights,
      plan,
      ...(form.max_tokens === "" ? {} : { max_tokens: Number(form.max_tokens) }),
      ...(form.deadline_s === "" ? {} : { deadline_s: Number(form.deadline_s) }),
      stream: true,
    };
  }

  async #ask() {
    this.#leave = new AbortController();
    this.run = new Map([...this.form.members].map((name) => [name, []]));
    this.view = this.fault = null;
    this.redraw();
    say("The board has been asked");
    try {
      for await (const { event, data } of events("answer", this.#body(), this.#leave.signal))
        this.#take(event, data);
      if (!this.view && !this.fault)
        throw new Problem({ title: "The answer was cut off", status: 0, detail: "The connection ended before the answer came. History has what was stored." });
    } catch (error) {
      if (error.name !== "AbortError") this.fault = error;
    }
    this.#leave = null;
    this.redraw();
  }

  #take(event, data) {
    if (event === "selected") {
      this.view = new AnswerView(data, this.redraw);
      say(data.member ? `${data.member} was chosen` : "No reply was chosen");
    } else if (event === "error") {
      this.fault = new Problem(data);
    } else if (event === "started") {
      const asked = this.run.get(data.member) ?? [];
      this.run.set(data.member, [...asked, { state: "asked", id: null }]);
    } else {
      const all = this.run.get(data.member) ?? [];
      const known = all.findIndex((one) => one.id === data.id);
      const at = known >= 0 ? known : all.findIndex((one) => one.id === null);
      const told = { ...data, state: event };
      this.run.set(data.member, at >= 0 ? all.with(at, told) : [...all, told]);
      say(`${data.member}: ${STATES[event]}`);
    }
    this.redraw();
  }

  draw() {
    return html`<h1 class="visually-hidden">Ask the board</h1>
      ${this.#form()} ${this.fault ? problem(this.fault) : nothing} ${this.#progress()}
      ${this.view ? this.view.draw() : nothing}`;
  }

  #form() {
    const { form, seats } = this;
    const set = (name) => (event) => {
      form[name] = event.target.value;
    };
    const submit = (event) => {
      event.preventDefault();
      if (!this.#leave) this.#ask();
    };
    const byKey = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form.requestSubmit();
    };
    const seat = (one) => html`<label class="seat">
      <input type="checkbox" .checked=${form.members.has(one.name)}
        @change=${(event) => {
          form.members[event.target.checked ? "add" : "delete"](one.name);
          this.redraw();
        }}>
      ${one.name}
      ${one.healthy === false ? html`<span class="badge degraded">not healthy</span>` : nothing}
    </label>`;
    return html`<form class="ask" @submit=${submit}>
      ${form.turns
        ? html`<div class="panel turns">
            ${form.turns.map((one) => html`<p><strong>${one.role}</strong> ${one.content}</p>`)}
            <button type="button" class="small" @click=${() => {
              form.turns = null;
              this.redraw();
            }}>Without these turns</button>
          </div>`
        : nothing}
      ${field(
        "Prompt",
        html`<textarea name="prompt" rows="4" required placeholder="Why is the sky blue?"
          .value=${form.prompt} @input=${set("prompt")} @keydown=${byKey}></textarea>`,
      )}
      <fieldset class="row">
        <legend>Members</legend>
        ${seats === null
          ? html`<span class="note">Loading …</span>`
          : seats.length
            ? seats.map(seat)
            : html`<span class="note">Nobody sits on the board: see <a href="#/board">Board</a>.</span>`}
      </fieldset>
      <details class="panel">
        <summary>System text, strategy, weights, limits</summary>
        ${field(
          "System text",
          html`<textarea name="system" rows="2" .value=${form.system} @input=${set("system")}></textarea>`,
        )}
        <div class="row">
          ${field("Strategy", select(STRATEGIES, form.strategy, (value) => {
            form.strategy = value;
            this.redraw();
          }))}
          ${field("Samples of each", html`<input name="samples" type="number" min="1" max="16" .value=${String(form.samples)} @input=${set("samples")}>`)}
          ${["cascade", "first_good"].includes(form.strategy)
            ? field("Good from reward", html`<input name="threshold" type="number" step="any" .value=${String(form.threshold)} @input=${set("threshold")}>`)
            : nothing}
          ${field("Longest reply, tokens", html`<input name="max_tokens" type="number" min="1" placeholder="default" .value=${String(form.max_tokens)} @input=${set("max_tokens")}>`)}
          ${field("Deadline, seconds", html`<input name="deadline_s" type="number" min="1" max="600" placeholder="default" .value=${String(form.deadline_s)} @input=${set("deadline_s")}>`)}
        </div>
        ${form.kept.tags
          ? html`<p><small>What is not shown here (temperature, floor, quorum, tags …) is as it was.</small></p>`
          : nothing}
        <fieldset>
          <legend>Weights of the five scores</legend>
          ${weightSliders(form.weights, (weights) => {
            form.weights = weights;
            this.redraw();
          })}
          <button type="button" class="small" @click=${() => {
            form.weights = { ...PUBLISHED };
            this.redraw();
          }}>Published weights</button>
        </fieldset>
      </details>
      <p class="actions">
        <button class="primary" ?disabled=${Boolean(this.#leave) || !form.members?.size}>Ask the board</button>
        ${this.#leave
          ? html`<button type="button" @click=${() => this.close()}>Stop</button>`
          : html`<small>or Ctrl + Enter</small>`}
      </p>
    </form>`;
  }

  #progress() {
    if (!this.run || this.view) return nothing;
    return html`<section class="panel" aria-label="The run">
      <ul class="progress">
        ${[...this.run].map(([member, all]) =>
          (all.length ? all : [{ state: "waiting" }]).map(
            (one) => html`<li class=${one.state} data-member=${member}>
              <strong>${member}</strong>
              <span>${STATES[one.state]}${one.failure ? `: ${one.failure.message}` : ""}</span>
              <span>${one.latency_s === undefined ? nothing : seconds(one.latency_s)}</span>
              <span>${one.state === "scored" ? (one.reward === null ? "no score" : `reward ${points(one.reward)}`) : nothing}</span>
            </li>`,
          ),
        )}
      </ul>
      ${this.#leave ? html`<progress aria-label="The board is at work"></progress>` : nothing}
    </section>`;
  }
}

const STATES = {
  waiting: "not asked yet",
  asked: "writing …",
  completed: "replied, being scored …",
  failed: "failed",
  scored: "scored",
};

/** A stored answer, by its id. */
export class Stored {
  constructor(redraw) {
    this.redraw = redraw;
    this.view = this.request = this.fault = null;
  }

  async open(_, id) {
    try {
      const path = `answers/${encodeURIComponent(id)}`;
      const [answer, request] = await Promise.all([call(path), call(`${path}/request`)]);
      this.request = request;
      this.view = new AnswerView(answer, this.redraw);
    } catch (error) {
      this.fault = error;
    }
    this.redraw();
  }

  draw() {
    if (this.fault) return problem(this.fault);
    if (!this.view) return html`<p class="note">Loading …</p>`;
    return html`<h1 class="visually-hidden">A stored answer</h1>
      <section class="panel turns" aria-label="What was asked">
        ${this.request.messages.map((one) => html`<p><strong>${one.role}</strong> ${one.content}</p>`)}
        <p class="actions"><a class="button" href="#/ask?from=${this.view.answer.id}">Ask again</a></p>
      </section>
      ${this.view.draw()}`;
  }
}
