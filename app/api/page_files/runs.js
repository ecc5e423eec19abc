// Runs: what came of STaR, from the run directories that the service is told of.

import { call } from "./api.js";
import { count, percent } from "./formats.js";
import { markdown, problem } from "./parts.js";
import { html, nothing } from "./vendor/lit-html.js";
import "./chart.js";

export class Runs {
  constructor(redraw) {
    this.redraw = redraw;
    this.list = this.run = this.fault = null;
  }

  async open(_, name) {
    try {
      if (name) this.run = await call(`runs/${encodeURIComponent(name)}`);
      else this.list = await call("runs");
    } catch (error) {
      this.fault = error;
    }
    this.redraw();
  }

  draw() {
    if (this.fault) return html`<h1>Runs</h1>${problem(this.fault)}`;
    if (this.run) return one(this.run);
    if (!this.list) return html`<h1>Runs</h1><p class="note">Loading …</p>`;
    return html`<h1>Runs</h1>${all(this.list)}`;
  }
}

function all({ directory, runs, unreadable }) {
  const broken = unreadable.map(
    (run) => html`<p class="badge degraded">${run.name} cannot be read: ${run.message}</p>`,
  );
  if (!runs.length && unreadable.length) return broken;
  if (!runs.length)
    return html`<p class="note">
        ${directory ? html`There is no run in <code>${directory}</code> yet.` : html`No folder of runs is named in the settings (<code>runs_dir</code>).`}
      </p>
      <p>STaR trains a model of your own from what the board has learned:
        <code>starboard star run --help</code> says how to begin a run.</p>`;
  return html`${broken}<div class="scroll"><table>
    <thead><tr>
      <th scope="col">Run</th><th scope="col">Base</th><th scope="col">Problems</th>
      <th scope="col">Iterations</th><th scope="col">Best, test problems [95 %]</th><th scope="col">Promoted</th><th scope="col">Sits as</th>
    </tr></thead>
    <tbody>${runs.map(
      (run) => html`<tr>
        <th scope="row"><a href="#/runs/${encodeURIComponent(run.name)}">${run.name}</a></th>
        <td>${run.base}</td><td>${run.source}</td><td>${run.iterations}</td>
        <td>${run.best ? `${run.best.model}: ${accuracy(run.best)}` : "not measured yet"}</td>
        <td>${run.promoted.map((n) => `iteration ${n}`).join(", ") || "none"}</td>
        <td>${run.seats.map((one) => one.member).join(", ") || "nobody"}</td>
      </tr>`,
    )}</tbody>
  </table></div>`;
}

const accuracy = (measure) =>
  `${percent(measure.accuracy)} [${percent(measure.low)}, ${percent(measure.high)}]`;

function one(run) {
  const measured = (name, label) => {
    const points = run.measured.filter((model) => model[name]);
    return points.length
      ? html`<starboard-chart .spec=${{
          type: "bar",
          label: `${label} of each model, with 95 % intervals`,
          unit: "share right",
          labels: points.map((model) => model.model),
          series: [{
            name: label,
            values: points.map((model) => model[name].accuracy),
            low: points.map((model) => model[name].low),
            high: points.map((model) => model[name].high),
          }],
        }}></starboard-chart>`
      : nothing;
  };
  const fates = [...new Set(run.rationales.flatMap((it) => Object.keys(it.fates)))];
  return html`<p><a href="#/runs">All runs</a></p>
    <h1>${run.name}</h1>
    <p>${run.source} on ${run.base}. Promoted: ${run.promoted.map((n) => `iteration ${n}`).join(", ") || "none"}.
      ${run.seats.length
        ? html`On the board: ${run.seats.map((one) => html`<strong>${one.member}</strong> (${one.model}) `)}`
        : html`No adapter of this run sits on the board.`}</p>
    ${run.held_back.map((why) => html`<p class="badge degraded">${why}</p>`)}
    <div class="charts">
      <section class="figure"><h2>Accuracy</h2>
        ${run.measured.length ? measured("test", "Accuracy on test problems") : html`<p class="note">Nothing is measured yet.</p>`}</section>
      ${run.measured.some((model) => model.regression)
        ? html`<section class="figure"><h2>Regression set</h2>${measured("regression", "Accuracy on the regression set")}</section>`
        : nothing}
      ${fates.length
        ? html`<section class="figure"><h2>Rationales</h2>
            <starboard-chart .spec=${{
              type: "bar",
              stacked: true,
              label: "What became of the rationales of each iteration",
              unit: "rationales",
              labels: run.rationales.map((it) => `iteration ${it.number}`),
              series: fates.map((fate) => ({ name: fate, values: run.rationales.map((it) => it.fates[fate] ?? 0) })),
            }}></starboard-chart></section>`
        : nothing}
    </div>
    ${run.samples.length ? html`<h2>To read</h2>` : nothing}
    <div class="cards">${run.samples.map(
      (sample) => html`<section class="card">
        <h3>${sample.kind} <small>iteration ${sample.iteration}</small></h3>
        <p>${sample.question}</p>
        ${sample.answer === null ? nothing : html`<p><small>Reference answer: ${sample.answer}</small></p>`}
        ${markdown(sample.text)}
      </section>`,
    )}</div>
    <details class="panel"><summary>Settings</summary><pre tabindex="0">${JSON.stringify(run.manifest, null, 2)}</pre></details>`;
}
