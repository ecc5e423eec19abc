// One answer: the winner, why it won, every candidate beside it, and what people say of it.

import { call } from "./api.js";
import { seconds, usd, points, when, count, percent } from "./formats.js";
import { copyButton, field, markdown, problem, say, scoreBars, select } from "./parts.js";
import { ATTRIBUTES, PUBLISHED, ranked, weighable } from "./ranking.js";
import { html, nothing } from "./vendor/lit-html.js";
import "./chart.js";

/**
 * What is drawn of an answer, and what the person has done to it: `weights` that re-rank it here,
 * the two candidates that are compared, the feedback there is. `redraw` is called on a change.
 */
export class AnswerView {
  constructor(answer, redraw) {
    this.answer = answer;
    this.redraw = redraw;
    this.weights = { ...answer.decision.weights };
    this.compared = answer.candidates.filter((one) => one.text !== null).slice(0, 2).map((one) => one.id);
    this.feedback = null;
    this.ratings = {};
    this.fault = null;
    this.#listFeedback();
  }

  draw() {
    const { answer } = this;
    const ranking = this.#ranking();
    return html`<article class="answer">
      ${this.#winner(ranking)} ${this.#weights(ranking)}
      <h2>Candidates</h2>
      <div class="cards">${this.#ordered(ranking).map((one) => this.#card(one, ranking))}</div>
      ${radar(answer)} ${this.#difference()} ${this.#feedback()}
    </article>`;
  }

  /** The ranking under the weights of the sliders; null while they are those of the answer. */
  #ranking() {
    const { answer, weights } = this;
    const same = ATTRIBUTES.every((name) => weights[name] === answer.decision.weights[name]);
    return same || !weighable(answer) ? null : ranked(answer, weights);
  }

  #ordered(ranking) {
    const place = ranking
      ? new Map(ranking.ids.map((id, at) => [id, at]))
      : new Map(this.answer.candidates.map((one) => [one.id, one.rank ?? Infinity]));
    return this.answer.candidates.toSorted(
      (a, b) => (place.get(a.id) ?? Infinity) - (place.get(b.id) ?? Infinity),
    );
  }

  #chosenId(ranking) {
    if (ranking) return ranking.chosen;
    const { answer } = this;
    if (answer.answer === null) return null;
    return answer.candidates.find(
      (one) => one.member === answer.member && one.text === answer.answer,
    )?.id;
  }

  #winner(ranking) {
    const { answer } = this;
    const chosen = answer.candidates.find((one) => one.id === this.#chosenId(ranking));
    const reward = ranking && chosen ? ranking.rewards[chosen.id] : chosen?.reward;
    const margin = ranking ? ranking.margin : answer.decision.margin;
    return html`<section class="winner" aria-labelledby="winner">
      <h2 id="winner">
        ${chosen ? html`${chosen.member} <small>${chosen.model}</small>` : "No reply was chosen"}
      </h2>
      ${ranking
        ? html`<p class="badge local">
            By your weights.
            ${chosen?.id === this.#chosenId(null)
              ? "The board chose the same."
              : `The board chose ${answer.member ?? "nothing"}.`}
          </p>`
        : nothing}
      ${answer.quality === "degraded"
        ? html`<p class="badge degraded">
            Degraded panel: ${answer.missing.join(", ") || "a part"} did not deliver.
          </p>`
        : nothing}
      ${chosen
        ? html`${markdown(chosen.text)}
            <p class="actions">${copyButton(chosen.text, `the reply of ${chosen.member}`)}</p>`
        : nothing}
      <dl class="facts">
        <div><dt>Why</dt><dd class="why">${ranking ? localReason(ranking, answer) : answer.decision.reason}</dd></div>
        <div><dt>Reward</dt><dd>${points(reward)}</dd></div>
        <div>
          <dt>Margin</dt>
          <dd>${points(margin)} <small>(resolution ${points(ranking?.resolution ?? answer.scorer.resolution)})</small></dd>
        </div>
        ${!ranking && answer.decision.tie_break
          ? html`<div><dt>Tie</dt><dd>${answer.decision.tie_break}</dd></div>`
          : nothing}
        ${answer.decision.votes
          ? html`<div><dt>Votes</dt><dd>${Object.entries(answer.decision.votes)
              .map(([said, votes]) => `${said}: ${points(votes)}`)
              .join(" · ")}</dd></div>`
          : nothing}
        ${answer.decision.length_control
          ? html`<div><dt>Length</dt><dd>${answer.decision.length_control}</dd></div>`
          : nothing}
        <div><dt>Scorer</dt><dd>${answer.scorer.name} <small>${answer.scorer.model}</small>
          ${answer.scorer.note ? html`<br><small>${answer.scorer.note}</small>` : nothing}</dd></div>
        <div><dt>Strategy</dt><dd>${answer.decision.strategy}</dd></div>
        <div><dt>Took</dt><dd>${seconds(answer.timings.total_s)}
          <small>(slowest member ${seconds(answer.timings.slowest_member_s)}, scoring ${seconds(answer.timings.scoring_s)})</small></dd></div>
        <div><dt>Cost</dt><dd>${usd(answer.cost_usd)}${answer.cost_usd === null ? html` <small>not known</small>` : nothing}</dd></div>
        <div><dt>Answer</dt><dd><a href="#/answers/${answer.id}">${answer.id}</a> <small>${when(answer.created)}</small></dd></div>
      </dl>
    </section>`;
  }

  #weights(ranking) {
    const { answer, weights } = this;
    if (!weighable(answer)) return nothing;
    const set = (values) => {
      this.weights = values;
      this.redraw();
      const now = this.#ranking();
      const chosen = answer.candidates.find((one) => one.id === this.#chosenId(now));
      say(chosen ? `${chosen.member} is first` : "");
    };
    return html`<details class="panel" ?open=${Boolean(ranking)}>
      <summary>What if it were weighed otherwise?</summary>
      ${weightSliders(weights, set)}
      <p class="actions">
        <button type="button" @click=${() => set({ ...answer.decision.weights })}>As it was</button>
        <a class="button" href="#/ask?from=${answer.id}&weights=${ATTRIBUTES.map((name) => weights[name]).join(",")}">Ask again with these</a>
      </p>
    </details>`;
  }

  #card(one, ranking) {
    const chosen = one.id === this.#chosenId(ranking);
    const reward = ranking ? (ranking.rewards[one.id] ?? null) : one.reward;
    return html`<section class="card ${chosen ? "chosen" : ""} ${one.failure ? "failed" : ""}" data-member=${one.member}>
      <h3>${one.member} <small>${one.model}</small></h3>
      <p class="verdict">${verdict(one, this.answer, ranking, chosen)}</p>
      ${one.scores ? scoreBars(one.scores) : nothing}
      ${one.score_failure
        ? html`<p class="badge degraded">Not scored: ${one.score_failure.message}</p>`
        : nothing}
      ${one.score_note ? html`<p><small>${one.score_note}</small></p>` : nothing}
      <dl class="facts small">
        <div><dt>Reward</dt><dd>${points(reward)}</dd></div>
        <div><dt>Took</dt><dd>${seconds(one.latency_s)}</dd></div>
        <div><dt>Cost</dt><dd>${usd(one.cost_usd)}</dd></div>
        <div><dt>Tokens</dt><dd>${one.usage ? `${count(one.usage.input_tokens)} in, ${count(one.usage.output_tokens)} out` : "–"}</dd></div>
        ${one.extracted ? html`<div><dt>Says</dt><dd>${one.extracted}</dd></div>` : nothing}
        ${one.dropped_parameters.length
          ? html`<div><dt>Not taken</dt><dd>${one.dropped_parameters.join(", ")}</dd></div>`
          : nothing}
        ${one.finish_reason && one.finish_reason !== "stop"
          ? html`<div><dt>Ended by</dt><dd>${one.finish_reason}</dd></div>`
          : nothing}
      </dl>
      ${one.text
        ? html`<div class="scroll reply" tabindex="0" role="region" aria-label="Reply of ${one.member}">${markdown(one.text)}</div>
            <p class="actions">
              ${copyButton(one.text, `the reply of ${one.member}`)}
              ${one.id === this.#chosenId(null)
                ? nothing
                : html`<button type="button" class="small" @click=${() => this.#send({ better: one.id })}>This one is better</button>`}
            </p>`
        : nothing}
    </section>`;
  }

  #difference() {
    const texts = this.answer.candidates.filter((one) => one.text !== null);
    if (texts.length < 2) return nothing;
    const options = texts.map((one) => [one.id, `${one.member}${one.rank ? ` (${one.rank})` : ""}`]);
    const pick = (at) => (id) => {
      this.compared[at] = id;
      this.redraw();
    };
    const [before, after] = this.compared.map((id) => texts.find((one) => one.id === id));
    return html`<details class="panel">
      <summary>Compare two replies word by word</summary>
      <div class="row">
        ${field("From", select(options, before.id, pick(0)))}
        ${field("To", select(options, after.id, pick(1)))}
      </div>
      <starboard-diff .texts=${[before.text, after.text]}></starboard-diff>
    </details>`;
  }

  async #listFeedback() {
    try {
      this.feedback = (await call(`answers/${this.answer.id}/feedback`)).feedback;
    } catch (error) {
      this.fault = error;
    }
    this.redraw();
  }

  async #send(said) {
    try {
      await call(`answers/${this.answer.id}/feedback`, { body: said });
      this.fault = null;
      say("Feedback stored");
      await this.#listFeedback();
    } catch (error) {
      this.fault = error;
      this.redraw();
    }
  }

  #feedback() {
    const { answer, ratings } = this;
    const rate = (name, value) => {
      if (value === "") delete ratings[name];
      else ratings[name] = Number(value);
      this.redraw();
    };
    const complete = ATTRIBUTES.every((name) => name in ratings);
    const write = (event) => {
      event.preventDefault();
      const form = event.currentTarget;
      const said = {};
      if (complete) said.ratings = ratings;
      for (const name of ["corrected", "comment"]) {
        if (form.elements[name].value.trim()) said[name] = form.elements[name].value;
      }
      if (Object.keys(said).length === 0) return;
      this.ratings = {};
      form.reset();
      this.#send(said);
    };
    const scale = [["", "–"], ...[0, 1, 2, 3, 4].map((one) => [String(one), String(one)])];
    return html`<section class="feedback" aria-labelledby="feedback">
      <h2 id="feedback">Feedback</h2>
      ${this.fault ? problem(this.fault) : nothing}
      ${answer.answer === null
        ? nothing
        : html`<p class="actions">
            <button type="button" @click=${() => this.#send({ thumb: "up" })}>Good choice</button>
            <button type="button" @click=${() => this.#send({ thumb: "down" })}>Bad choice</button>
          </p>`}
      <details class="panel">
        <summary>Rate, correct, comment</summary>
        <form @submit=${write}>
          ${answer.answer === null
            ? nothing
            : html`<fieldset>
                  <legend>The chosen reply, 0 (worst) to 4</legend>
                  <div class="row">
                    ${ATTRIBUTES.map((name) =>
                      field(name, select(scale, String(ratings[name] ?? ""), (value) => rate(name, value))),
                    )}
                  </div>
                  ${Object.keys(ratings).length && !complete
                    ? html`<small>All five are stored together, or none.</small>`
                    : nothing}
                </fieldset>
                ${field("As it should have been", html`<textarea name="corrected" rows="4"></textarea>`)}`}
          ${field("Comment", html`<textarea name="comment" rows="2"></textarea>`)}
          <p class="actions"><button class="primary">Store</button></p>
        </form>
      </details>
      ${this.feedback?.length
        ? html`<ul class="said">${this.feedback.map((one) => html`<li>${told(one, answer)} <small>${when(one.created)}</small></li>`)}</ul>`
        : nothing}
    </section>`;
  }
}

export function weightSliders(weights, onChange) {
  return html`<div class="sliders">
    ${ATTRIBUTES.map(
      (name) => html`<label>
        <span>${name}</span>
        <input type="range" min="-1" max="1" step="0.01" .value=${String(weights[name])}
          @input=${(event) => onChange({ ...weights, [name]: Number(event.target.value) })}>
        <output>${weights[name].toFixed(2)}</output>
      </label>`,
    )}
  </div>
  <p><small>Published weights: ${ATTRIBUTES.map((name) => `${name} ${PUBLISHED[name]}`).join(", ")}.</small></p>`;
}

function localReason(ranking, answer) {
  const member = (id) => answer.candidates.find((one) => one.id === id).member;
  if (ranking.chosen === null)
    return `the best reward is under the floor of ${points(answer.decision.floor)}`;
  return ranking.tied.length
    ? `too close to call among ${ranking.tied.map(member).join(", ")}: the first as ties go`
    : `highest reward of ${ranking.ids.length} scored candidates`;
}

/** Why this one won or lost. */
function verdict(one, answer, ranking, chosen) {
  if (one.failure) return `Failed: ${one.failure.message}`;
  if (["refusal", "content_filter"].includes(one.finish_reason) && !chosen)
    return "Withheld by its vendor: not compared with honest replies";
  if (chosen) return ranking ? "First by your weights" : "Chosen";
  const place = ranking ? ranking.ids.indexOf(one.id) + 1 || null : one.rank;
  if (place === null) return "Not ranked: it has no score";
  const rewards = ranking
    ? (id) => ranking.rewards[id]
    : (id) => answer.candidates.find((other) => other.id === id).reward;
  const first = ranking
    ? ranking.ids[0]
    : answer.candidates.find((other) => other.rank === 1)?.id;
  const behind = rewards(first) - rewards(one.id);
  const resolution = ranking?.resolution ?? answer.scorer.resolution;
  const said = `Rank ${place}, ${behind >= 0 ? `${points(behind)} behind` : `${points(-behind)} above`} the first`;
  return Math.abs(behind) < resolution ? `${said}: too close to tell apart` : said;
}

function radar(answer) {
  const scored = answer.candidates.filter((one) => one.scores);
  if (scored.length < 2) return nothing;
  const spec = {
    type: "radar",
    label: "The five scores of every candidate, 0 to 4",
    labels: ATTRIBUTES,
    series: scored.map((one) => ({ name: one.member, values: ATTRIBUTES.map((name) => one.scores[name]) })),
  };
  return html`<details class="panel" open>
    <summary>All scores in one picture</summary>
    <starboard-chart class="square" .spec=${spec}></starboard-chart>
  </details>`;
}

function told(feedback, answer) {
  const parts = [];
  if (feedback.thumb) parts.push(feedback.thumb === "up" ? "good choice" : "bad choice");
  if (feedback.better) {
    const better = answer.candidates.find((one) => one.id === feedback.better);
    parts.push(`${better?.member ?? feedback.better} is better`);
  }
  if (feedback.ratings)
    parts.push(ATTRIBUTES.map((name) => `${name} ${feedback.ratings[name]}`).join(", "));
  if (feedback.corrected) parts.push(`should have been: ${feedback.corrected}`);
  if (feedback.comment) parts.push(`“${feedback.comment}”`);
  return parts.join(" · ");
}

/** The words of two texts, those taken out and those put in. */
class Difference extends HTMLElement {
  #texts = [];

  set texts([before, after]) {
    if (this.#texts[0] === before && this.#texts[1] === after) return;
    this.#texts = [before, after];
    this.#draw(before, after);
  }

  async #draw(before, after) {
    await import("./vendor/diff.min.js");
    const changes = Diff.diffWordsWithSpace(before, after);
    const words = changes.map(({ value, added, removed }) => {
      const word = document.createElement(added ? "ins" : removed ? "del" : "span");
      word.textContent = value;
      return word;
    });
    const kept = changes
      .filter((one) => !one.added && !one.removed)
      .reduce((sum, one) => sum + one.value.length, 0);
    const summary = document.createElement("p");
    summary.textContent = `${percent((2 * kept) / (before.length + after.length))} of the characters are in both.`;
    const text = document.createElement("div");
    text.className = "diff";
    text.append(...words);
    this.replaceChildren(summary, text);
  }
}
customElements.define("starboard-diff", Difference);
