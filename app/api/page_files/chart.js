// <starboard-chart>: a chart, what it says in words, and its numbers as a table.

import { html, render } from "./vendor/lit-html.js";

let loading = null;
/** Chart.js, fetched when the first chart is to be drawn. */
function library() {
  loading ??= import("./vendor/chart.umd.min.js").then(() => {
    Chart.defaults.animation = false;
    Chart.defaults.maintainAspectRatio = false;
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    return Chart;
  });
  return loading;
}

const PALETTE = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7", "--c8"];
// Told apart without colour as well.
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3]];
const POINTS = ["circle", "rect", "triangle", "rectRot", "star", "cross"];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * `spec`: `{label, type, labels, series: [{name, values, low?, high?}], options?, unit?}`.
 * `label` says what is to be seen; `low` and `high` are ends of intervals, drawn as whiskers.
 */
class StarboardChart extends HTMLElement {
  #spec = null;
  #chart = null;

  set spec(value) {
    if (JSON.stringify(value) === JSON.stringify(this.#spec)) return;
    this.#spec = value;
    if (this.isConnected) this.#draw();
  }

  connectedCallback() {
    this.onTheme = () => this.#draw();
    document.addEventListener("theme", this.onTheme);
    if (this.#spec) this.#draw();
  }

  disconnectedCallback() {
    document.removeEventListener("theme", this.onTheme);
    this.#chart?.destroy();
    this.#chart = null;
  }

  async #draw() {
    const spec = this.#spec;
    render(template(spec), this);
    const Chart = await library();
    if (spec !== this.#spec || !this.isConnected) return;
    this.#chart?.destroy();
    this.#chart = new Chart(this.querySelector("canvas"), config(spec));
    this.dataset.drawn = "true";
  }
}
customElements.define("starboard-chart", StarboardChart);

const number = (value) =>
  value === null || value === undefined ? "–" : Number(value.toPrecision(3)).toLocaleString("en");

function template(spec) {
  const cell = (one, at) =>
    one.low
      ? `${number(one.values[at])} [${number(one.low[at])}, ${number(one.high[at])}]`
      : number(one.values[at]);
  return html`
    <div class="canvas"><canvas role="img" aria-label=${spec.label}></canvas></div>
    <details>
      <summary>The numbers${spec.unit ? ` (${spec.unit})` : ""}</summary>
      <div class="scroll" tabindex="0" role="region" aria-label="${spec.label}: the numbers">
        <table>
          <thead>
            <tr><td></td>${spec.series.map((one) => html`<th scope="col">${one.name}</th>`)}</tr>
          </thead>
          <tbody>
            ${spec.labels.map(
              (label, at) => html`<tr>
                <th scope="row">${label}</th>
                ${spec.series.map((one) => html`<td>${cell(one, at)}</td>`)}
              </tr>`,
            )}
          </tbody>
        </table>
      </div>
    </details>
  `;
}

function config(spec) {
  const text = colour("--text");
  const grid = colour("--line");
  const ticks = { color: text };
  const axis = (options) => ({ grid: { color: grid }, ticks, border: { color: grid }, ...options });
  const scales =
    spec.type === "radar"
      ? {
          r: {
            min: 0,
            max: 4,
            angleLines: { color: grid },
            grid: { color: grid },
            pointLabels: { color: text, font: { size: 12 } },
            ticks: { color: text, backdropColor: "transparent", stepSize: 1 },
          },
        }
      : {
          x: axis({ stacked: spec.stacked }),
          y: axis({
            stacked: spec.stacked,
            beginAtZero: true,
            suggestedMax: Math.max(...spec.series.flatMap((one) => one.high ?? [0])),
            title: { display: Boolean(spec.unit), text: spec.unit, color: text },
          }),
        };
  return {
    type: spec.type,
    data: {
      labels: spec.labels,
      datasets: spec.series.map((one, at) => ({
        label: one.name,
        data: one.values,
        borderColor: colour(PALETTE[at % PALETTE.length]),
        backgroundColor:
          colour(PALETTE[at % PALETTE.length]) + (spec.type === "radar" ? "22" : "cc"),
        borderDash: spec.type === "bar" ? [] : DASHES[at % DASHES.length],
        pointStyle: POINTS[at % POINTS.length],
        pointRadius: 4,
        borderWidth: 2,
        spanGaps: true,
        low: one.low,
        high: one.high,
      })),
    },
    options: {
      scales,
      plugins: {
        legend: {
          display: spec.series.length > 1,
          labels: { color: text, usePointStyle: spec.type !== "bar" },
        },
      },
    },
    plugins: [whiskers(text)],
  };
}

/** Intervals of bars and points. */
const whiskers = (stroke) => ({
  id: "whiskers",
  afterDatasetsDraw(chart) {
    const { ctx } = chart;
    chart.data.datasets.forEach((dataset, at) => {
      if (!dataset.low || !chart.isDatasetVisible(at)) return;
      ctx.save();
      ctx.strokeStyle = stroke;
      ctx.lineWidth = 1.5;
      chart.getDatasetMeta(at).data.forEach((element, index) => {
        if (dataset.low[index] == null) return;
        const low = chart.scales.y.getPixelForValue(dataset.low[index]);
        const high = chart.scales.y.getPixelForValue(dataset.high[index]);
        ctx.beginPath();
        ctx.moveTo(element.x, low);
        ctx.lineTo(element.x, high);
        for (const end of [low, high]) {
          ctx.moveTo(element.x - 4, end);
          ctx.lineTo(element.x + 4, end);
        }
        ctx.stroke();
      });
      ctx.restore();
    });
  },
});
