// Board: who sits, how they are, and what came of the answers of some days.

import { call, query } from "./api.js";
import { count, percent, points, seconds, usd } from "./formats.js";
import { field, problem, select, share } from "./parts.js";
import { html, nothing } from "./vendor/lit-html.js";
import "./chart.js";

const SPANS = [["1", "a day"], ["7", "a week"], ["30", "30 days"], ["365", "a year"]];

export class Board {
  constructor(redraw) {
    this.redraw = redraw;
    this.models = this.ready = this.statistics = this.fault = null;
    this.days = "30";
  }

  async open(parameters) {
    this.days = parameters.get("days") ?? "30";
    try {
      [this.models, this.statistics] = await Promise.all([
        call("models"),
        call(`statistics${query({ days: this.days })}`),
      ]);
    } catch (error) {
      this.fault = error;
    }
    this.redraw();
  }

  draw() {
    if (this.fault) return html`<h1>Board</h1>${problem(this.fault)}`;
    if (!this.models) return html`<h1>Board</h1><p class="note">Loading …</p>`;
    const { scorer, members } = this.models;
    return html`<h1>Board</h1>
      <p>Scored by <strong>${scorer.name}</strong> <small>${scorer.model}</small>, resolution ${points(scorer.resolution)}.
        ${scorer.note ? html`<br><small>${scorer.note}</small>` : nothing}</p>
      <div class="cards">${members.map((one) => this.#seat(one))}</div>
      ${this.#statistics()}`;
  }

  #seat(one) {
    const figures = this.statistics.members.find((other) => other.name === one.name);
    return html`<section class="card ${one.seated ? "" : "empty"}" data-member=${one.name}>
      <h2>${one.name} <small>${one.model}</small></h2>
      <p>${state(one)}</p>
      <dl class="facts small">
        <div><dt>Provider</dt><dd>${one.provider}</dd></div>
        <div><dt>Win rate</dt><dd>${percent(one.win_rate)} <small>of ${count(one.competed)}</small></dd></div>
        ${one.gate
          ? html`<div><dt>Breaker</dt><dd>${one.gate.circuit}</dd></div>
              <div><dt>Calls now</dt><dd>${one.gate.in_progress}${one.gate.max_concurrency ? ` of ${one.gate.max_concurrency}` : ""}, ${one.gate.waiting} waiting</dd></div>`
          : nothing}
        ${figures
          ? html`<div><dt>Latency</dt><dd>${seconds(figures.latency_median_s)} <small>median, ${seconds(figures.latency_p95_s)} p95</small></dd></div>
              <div><dt>Cost</dt><dd>${usd(figures.cost_usd)}${figures.cost_unknown ? html` <small>and ${count(figures.cost_unknown)} replies of unknown cost</small>` : nothing}</dd></div>
              <div><dt>Replies</dt><dd>${count(figures.replies)}${Object.entries(figures.failures).map(([kind, n]) => html`, <span class="warn">${n} ${kind}</span>`)}</dd></div>`
          : nothing}
        <div><dt>May train</dt><dd>${one.trainable ? "yes" : "no"}</dd></div>
        ${one.terms ? html`<div><dt>Terms</dt><dd>${one.terms}</dd></div>` : nothing}
      </dl>
    </section>`;
  }

  #statistics() {
    const { statistics, days } = this;
    const asked = statistics.members.filter((one) => one.replies);
    return html`<section aria-labelledby="came">
      <h2 id="came">What came of it</h2>
      <div class="row">
        ${field("In the last", select(SPANS, days, (value) => {
          location.hash = `#/board?days=${value}`;
        }))}
        <p class="note">${count(statistics.answers)} ${statistics.answers === 1 ? "answer" : "answers"}${statistics.truncated ? " (the newest; older ones are not counted)" : ""}, ${count(statistics.degraded)} of a degraded panel.</p>
      </div>
      ${statistics.answers === 0
        ? html`<p class="note">Nothing was asked in this time. <a href="#/ask">Ask the board</a>.</p>`
        : html`<div class="charts">
            ${figure(`How high the rewards are${statistics.reward_scorer ? ` (by ${statistics.reward_scorer})` : ""}`, {
              type: "bar",
              label: "Distribution of rewards of each member",
              labels: statistics.reward_bins.slice(0, -1).map((low, at) => `${points(low)} – ${points(statistics.reward_bins[at + 1])}`),
              unit: "replies",
              series: asked.map((one) => ({ name: one.name, values: one.rewards })),
            })}
            ${figure("How long it takes", byDay(statistics, "latency_median_s", "seconds, median", "Latency of each member by day"))}
            ${asked.some((one) => one.cost_usd !== null)
              ? figure("What it costs", byDay(statistics, "cost_usd", "USD", "Known cost of each member by day"))
              : html`<section class="figure"><h3>What it costs</h3><p class="note">No cost is known: no member has a price in the settings.</p></section>`}
            <section class="figure"><h3>Do people agree with the scorer?</h3>${agreement(statistics.agreement)}</section>
          </div>`}
    </section>`;
  }
}

function state(one) {
  if (!one.seated) return html`<span class="badge">not seated</span> ${one.why_not}`;
  if (one.healthy === false) return html`<span class="badge degraded">not healthy</span>`;
  return html`<span class="badge good">seated</span>`;
}

const figure = (title, spec) =>
  html`<section class="figure"><h3>${title}</h3><starboard-chart .spec=${spec}></starboard-chart></section>`;

function byDay(statistics, name, unit, label) {
  const members = statistics.members.filter((one) => one.replies);
  return {
    type: "line",
    label,
    unit,
    labels: statistics.days.map((one) => one.day),
    series: members.map((one) => ({
      name: one.name,
      values: statistics.days.map((day) => day.members[one.name]?.[name] ?? null),
    })),
  };
}

function agreement(all) {
  if (!all.length)
    return html`<p class="note">Nobody has said yet whether a choice was good. Feedback is given below each answer.</p>`;
  return html`<div class="scroll"><table>
    <thead><tr><th scope="col">Scorer</th><th scope="col">Choices people agree with [95 %]</th></tr></thead>
    <tbody>${all.map((one) => html`<tr><th scope="row">${one.scorer}</th><td>${share(one)}</td></tr>`)}</tbody>
  </table></div>
  <p><small>A thumb up agrees; a thumb down, a better candidate and a corrected text do not. The last word on each answer counts.</small></p>`;
}
