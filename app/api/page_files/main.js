// Which view is shown, by the address behind the #.

import { Ask, Stored } from "./ask.js";
import { kept, key } from "./api.js";
import { Board } from "./board.js";
import { History } from "./history.js";
import { askForKey, problem } from "./parts.js";
import { Runs } from "./runs.js";
import { render } from "./vendor/lit-html.js";

const VIEWS = { ask: Ask, answers: Stored, history: History, board: Board, runs: Runs };
const TITLES = { ask: "Ask", answers: "Answer", history: "History", board: "Board", runs: "Runs" };

const main = document.getElementById("view");
let shown = null;

function show() {
  const [path, parameters] = location.hash.slice(2).split("?");
  const [name, written] = path.split("/");
  const id = written && decoded(written);
  const place = Object.hasOwn(VIEWS, name) && (name !== "answers" || id) ? name : "ask";
  const first = shown === null;
  shown?.close?.();
  main.replaceChildren(document.createElement("div"));
  const view = new VIEWS[place](() => {
    if (view === shown) draw(view);
  });
  shown = view;
  document.title = `${TITLES[place]} · Starboard`;
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.hash === `#/${place}` || (place === "answers" && link.hash === "#/history");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  draw(view);
  view.open(new URLSearchParams(parameters), id);
  if (!first) main.focus();
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function draw(view) {
  try {
    render(view.draw(), main.firstChild);
  } catch (error) {
    render(problem(error), main.firstChild);
    throw error;
  }
}

const dialog = document.getElementById("key-dialog");
const keyField = document.getElementById("key-value");
document.getElementById("key").addEventListener("click", askForKey);
dialog.addEventListener("close", () => {
  const written = keyField.value.trim();
  keyField.value = "";
  if (dialog.returnValue === "forget") {
    key.set("");
    show();
  }
  if (dialog.returnValue === "save" && written) {
    key.set(written);
    if (shown.keyed) shown.keyed();
    else show();
  }
});

const preference = matchMedia("(prefers-color-scheme: dark)");
const theme = kept(() => localStorage, "starboard-theme");
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("theme"));
}
document.getElementById("theme").addEventListener("click", () => {
  const chosen = document.documentElement.dataset.theme;
  const dark = chosen ? chosen === "dark" : preference.matches;
  theme.set(dark ? "light" : "dark");
  setTheme(dark ? "light" : "dark");
});
if (theme.get()) setTheme(theme.get());
preference.addEventListener("change", () => {
  document.dispatchEvent(new Event("theme"));
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", show);
show();
