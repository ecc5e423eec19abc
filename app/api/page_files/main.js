// Which view is shown, by the address behind the #.

import { Ask, Stored } from "./ask.js";
import { key } from "./api.js";
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
  if (location.hash && !location.hash.startsWith("#/")) return; // the link that skips the header
  const [path, parameters] = location.hash.slice(2).split("?");
  const [name, id] = path.split("/");
  const place = name in VIEWS ? name : "ask";
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
  view.open(new URLSearchParams(parameters), id && decodeURIComponent(id));
  if (!first) main.focus();
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
  if (dialog.returnValue === "save") key.set(keyField.value.trim());
  if (dialog.returnValue === "forget") key.set("");
  keyField.value = "";
  if (["save", "forget"].includes(dialog.returnValue)) show();
});

const THEME = "starboard-theme";
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("theme"));
}
document.getElementById("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).getPropertyValue("--is-dark").trim() === "1";
  localStorage.setItem(THEME, dark ? "light" : "dark");
  setTheme(dark ? "light" : "dark");
});
if (localStorage.getItem(THEME)) setTheme(localStorage.getItem(THEME));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  document.dispatchEvent(new Event("theme"));
});

window.addEventListener("hashchange", show);
show();
