// Pieces that several views draw.

import { html, nothing } from "./vendor/lit-html.js";
import { percent, points, UNKNOWN } from "./formats.js";
import { rendered } from "./markdown.js";
import { ATTRIBUTES } from "./ranking.js";

/** Says something to those who do not see the page. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** An error, with what each member said where the problem names them. */
export function problem(error) {
  const { title, members } = error.document ?? { title: "The page has a fault" };
  return html`<div class="problem" role="alert">
    <strong>${title}</strong>
    <p>${error.message}</p>
    ${members
      ? html`<ul>${members.map((one) => html`<li>${one.failure.message}</li>`)}</ul>`
      : nothing}
    ${error.status === 401
      ? html`<button type="button" @click=${askForKey}>Enter a key</button>`
      : nothing}
  </div>`;
}

export function askForKey() {
  document.getElementById("key-dialog").showModal();
}

/** A model's text; drawn anew only if it is another. */
class Text extends HTMLElement {
  set text(value) {
    this.replaceChildren(rendered(value));
  }
}
customElements.define("starboard-text", Text);

export const markdown = (text) => html`<starboard-text .text=${text}></starboard-text>`;

export function copyButton(text, what) {
  if (!navigator.clipboard) return nothing; // browsers have it on https and on one's own machine alone
  const copy = async (event) => {
    const button = event.currentTarget;
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    say(`Copied ${what}`);
    setTimeout(() => (button.textContent = "Copy"), 1500);
  };
  return html`<button type="button" class="small" aria-label="Copy ${what}" @click=${copy}>Copy</button>`;
}

/** The five scores as bars on the scale 0-4. */
export function scoreBars(scores) {
  return html`<dl class="bars">
    ${ATTRIBUTES.map(
      (name) => html`<div>
        <dt>${name}</dt>
        <dd>
          <meter min="0" max="4" .value=${scores[name]} aria-label=${name}></meter>
          <span>${points(scores[name])}</span>
        </dd>
      </div>`,
    )}
  </dl>`;
}

export function field(label, control, hint) {
  return html`<label class="field"><span>${label}</span>${control}${hint
    ? html`<small>${hint}</small>`
    : nothing}</label>`;
}

/** A select of `[value, text]` pairs. */
export function select(options, value, onChange) {
  return html`<select @change=${(event) => onChange(event.target.value)}>
    ${options.map(
      ([one, text]) => html`<option value=${one} .selected=${one === value}>${text}</option>`,
    )}
  </select>`;
}

export const share = ({ share, low, high, n }) =>
  n ? `${percent(share)} [${percent(low)}, ${percent(high)}] of ${n}` : UNKNOWN;
