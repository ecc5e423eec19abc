// History: stored answers by search and filters, page by page, and their export.

import { call, download, query } from "./api.js";
import { points, when } from "./formats.js";
import { field, problem, say, select } from "./parts.js";
import { html, nothing } from "./vendor/lit-html.js";

const FILTERS = ["q", "member", "strategy", "quality", "feedback", "tag"];

export class History {
  constructor(redraw) {
    this.redraw = redraw;
    this.wanted = Object.fromEntries(FILTERS.map((name) => [name, ""]));
    this.answers = null;
    this.next = null;
    this.members = [];
    this.fault = null;
  }

  async open(parameters) {
    for (const name of FILTERS) this.wanted[name] = parameters.get(name) ?? "";
    call("models").then(
      ({ members }) => {
        this.members = members.map((one) => one.name);
        this.redraw();
      },
      () => {}, // the list says what is wrong
    );
    this.answers = null;
    await this.#page(null);
  }

  async #page(cursor) {
    try {
      const page = await call(`answers${query({ ...this.wanted, cursor })}`);
      this.answers = [...(cursor ? this.answers : []), ...page.answers];
      this.next = page.next;
      this.fault = null;
      say(`${this.answers.length} answers are shown`);
    } catch (error) {
      this.fault = error;
    }
    this.redraw();
  }

  draw() {
    return html`<h1>History</h1>
      ${this.#filters()} ${this.fault ? problem(this.fault) : nothing} ${this.#list()}
      ${this.next
        ? html`<p class="actions"><button type="button" @click=${() => this.#page(this.next)}>Older ones</button></p>`
        : nothing}`;
  }

  #filters() {
    const { wanted } = this;
    const look = () => {
      location.hash = `#/history${query(wanted)}`;
    };
    const pick = (name) => (value) => {
      wanted[name] = value;
      look();
    };
    const any = ["", "any"];
    const same = (names) => [any, ...names.map((one) => [one, one])];
    const save = (shape) => async () => {
      try {
        await download(`export${query({ format: shape })}`, `starboard-${shape}.jsonl`);
      } catch (error) {
        this.fault = error;
        this.redraw();
      }
    };
    return html`<form class="filters row" role="search" @submit=${(event) => {
        event.preventDefault();
        wanted.q = event.currentTarget.elements.q.value;
        wanted.tag = event.currentTarget.elements.tag.value;
        look();
      }}>
        ${field("Words in the prompt or the answer", html`<input name="q" type="search" .value=${wanted.q}>`)}
        ${field("Chosen", select(same(this.members), wanted.member, pick("member")))}
        ${field("Strategy", select(same(["best_of_n", "majority_vote", "weighted_vote", "cascade", "first_good", "fuse", "single"]), wanted.strategy, pick("strategy")))}
        ${field("Panel", select(same(["full", "degraded"]), wanted.quality, pick("quality")))}
        ${field("Feedback", select([any, ["true", "some"], ["false", "none"]], wanted.feedback, pick("feedback")))}
        ${field("Tag", html`<input name="tag" placeholder="user:u1" pattern="[^:]*:.*" .value=${wanted.tag}>`)}
        <button class="primary">Search</button>
      </form>
      <details class="panel">
        <summary>Export all answers to train from</summary>
        <p class="actions">
          <button type="button" @click=${save("sft")}>SFT</button>
          <button type="button" @click=${save("preference")}>Preference pairs</button>
          <button type="button" @click=${save("helpsteer")}>HelpSteer rows</button>
        </p>
        <p><small>JSON lines. Replies of members whose <code>trainable</code> is off are left out.</small></p>
      </details>`;
  }

  #list() {
    if (this.answers === null) return this.fault ? nothing : html`<p class="note">Loading …</p>`;
    if (this.answers.length === 0)
      return html`<p class="note">${Object.values(this.wanted).some(Boolean)
        ? "No answer fits."
        : html`Nothing has been asked yet. <a href="#/ask">Ask the board</a>.`}</p>`;
    return html`<ol class="answers">
      ${this.answers.map(
        (one) => html`<li>
          <a href="#/answers/${one.id}" class="asked">${one.prompt}</a>
          <p class="snippet">${one.answer ?? "No reply was chosen."}</p>
          <p class="meta">
            <span>${when(one.created)}</span>
            <span>${one.member ?? "nobody"}</span>
            <span>reward ${points(one.reward)}</span>
            <span>${one.strategy}</span>
            ${one.quality === "degraded" ? html`<span class="badge degraded">degraded</span>` : nothing}
            ${one.feedback ? html`<span class="badge">${one.feedback} × feedback</span>` : nothing}
            ${Object.entries(one.tags).map(([key, value]) => html`<a class="badge" href="#/history${query({ tag: `${key}:${value}` })}">${key}: ${value}</a>`)}
            <a href="#/ask?from=${one.id}" aria-label="Ask again: ${one.prompt}">Ask again</a>
          </p>
        </li>`,
      )}
    </ol>`;
  }
}
