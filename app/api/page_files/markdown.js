// A model's text is hostile: HTML in it is shown as text, images become links, and what is left
// goes through a sanitizer before it is in the page.

import { marked } from "./vendor/marked.esm.js";
import "./vendor/purify.min.js";

const TAGS =
  "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre strong table tbody td th thead tr ul";
const SAFE = {
  ALLOWED_TAGS: TAGS.split(" "),
  ALLOWED_ATTR: ["href", "start"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};

marked.use({
  gfm: true,
  breaks: true,
  renderer: { html: ({ text }) => escaped(text) },
  walkTokens: (token) => {
    if (token.type !== "image") return;
    token.type = "link";
    token.tokens = [{ type: "text", raw: token.raw, text: `image: ${token.text || token.href}` }];
  },
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName !== "A") return;
  node.setAttribute("rel", "noopener noreferrer nofollow");
  node.setAttribute("target", "_blank");
});

/** The text as a document fragment. */
export function rendered(text) {
  const fragment = DOMPurify.sanitize(marked.parse(text), SAFE);
  for (const table of fragment.querySelectorAll("table, pre")) table.tabIndex = 0; // they scroll
  for (const heading of fragment.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    const plain = document.createElement("p"); // no headings of the page's own outline
    plain.className = "heading";
    plain.append(...heading.childNodes);
    heading.replaceWith(plain);
  }
  return fragment;
}

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escaped = (text) => text.replace(/[&<>"]/g, (one) => ENTITIES[one]);
