// Turns the tokens of Markdown into elements. HTML in the text stays text, and a picture becomes a link to it.

import { el } from "../core/dom.js";
import { Marked, Tokenizer } from "../vendor/marked/marked.esm.js";
import { drawCode } from "./code.js";
import { drawFormula, extensions } from "./math.js";

/** @import { Token, Tokens } from "../vendor/marked/marked.esm.js" */

const MOST_LEVELS = 20; // of lists and quotes; marked reads what is inside once for each level
const MOST_CELLS = 10_000; // of a table; a browser takes seconds to lay out more
const MAX_MARKS = 500; // of emphasis in one paragraph; marked takes cubic time for them

// marked takes quadratic time for a word that may be the name in a mail address, and for an address of the web.
const LONG_WORD = /^[\w.!#$%&'*+/=?`{|}~-]{500,}/;
const LONG_ADDRESS = /^(?:https?:\/\/|ftp:\/\/|www\.)[^\s<]{4000}/i;

const marked = new Marked({ gfm: true, extensions, tokenizer: { blockquote, emStrong, inlineText, list, url } });
const SAFE_ADDRESS = /^(?:https?:\/\/|mailto:)/i;

let level = 0;

/** @this {Tokenizer} @param {string} text */
function list(text) {
  return deeper(() => Tokenizer.prototype.list.call(this, text));
}

/** @this {Tokenizer} @param {string} text */
function blockquote(text) {
  return deeper(() => Tokenizer.prototype.blockquote.call(this, text));
}

/** Reads what is nested, or leaves it as text if it is too deep. @template T @param {() => T} read @returns {T | undefined} */
function deeper(read) {
  if (level === MOST_LEVELS) return undefined;
  level += 1;
  try {
    return read();
  } finally {
    level -= 1;
  }
}

let counted = { text: "", marks: 0 }; // marked asks once for each mark of a paragraph

/** Leaves the marks of a paragraph as they are if there are too many. @param {string} _rest @param {string} text */
function emStrong(_rest, text) {
  if (counted.text !== text) counted = { text, marks: text.match(/[*_]+/g)?.length ?? 0 };
  return counted.marks > MAX_MARKS ? undefined : false; // false: marked decides
}

/** Leaves a very long word as it is. @param {string} text */
function inlineText(text) {
  const raw = LONG_WORD.exec(text)?.[0];
  return raw === undefined ? false : { type: /** @type {const} */ ("text"), raw, text: raw, escaped: false };
}

/** Leaves a very long address as it is. @param {string} text */
function url(text) {
  return LONG_ADDRESS.test(text) ? undefined : false;
}

/** The blocks of a text. Together their `raw` texts are the text. @param {string} text @returns {Token[]} */
export function blocksOf(text) {
  return marked.lexer(text);
}

/** @param {Token} token a block @param {boolean} isWhole whether its end has come @returns {Node} */
export function drawBlock(token, isWhole) {
  const t = /** @type {any} */ (token); // marked's tokens are a union that is open to extensions
  switch (token.type) {
    case "heading":
      return el(heading(t.depth), { dir: "auto" }, ...inlines(t.tokens));
    case "paragraph":
      return el("p", { dir: "auto" }, ...inlines(t.tokens));
    case "code":
      return drawCode(t.text, t.lang ?? "", isWhole);
    case "blockquote":
      return el("blockquote", { dir: "auto" }, ...t.tokens.map((/** @type {Token} */ part) => drawPart(part, isWhole)));
    case "list":
      return drawList(t, isWhole);
    case "table":
      return t.rows.length * t.header.length > MOST_CELLS ? drawCode(t.raw.trimEnd(), "markdown", isWhole) : drawTable(t);
    case "hr":
      return el("hr");
    case "formula":
      return el("p", {}, drawFormula(t.tex, true));
    case "space":
    case "def":
      return document.createDocumentFragment();
    case "text":
      return t.tokens ? el("span", {}, ...inlines(t.tokens)) : document.createTextNode(t.text);
    default:
      return el("p", { dir: "auto" }, token.raw.trimEnd());
  }
}

/** @param {number} depth */
function heading(depth) {
  // The page's own headings come first.
  return /** @type {const} */ (["h3", "h4", "h5", "h6", "h6", "h6"])[depth - 1] ?? "h6";
}

/** @param {Tokens.List} list @param {boolean} isWhole */
function drawList(list, isWhole) {
  const items = list.items.map((item) => el("li", { class: item.task && "task" }, ...item.tokens.map((token) => drawPart(token, isWhole))));
  if (!list.ordered) return el("ul", { dir: "auto" }, ...items);
  return el("ol", { dir: "auto", start: list.start === 1 ? null : list.start }, ...items);
}

/** A part of a list or quote, whose direction is that of the whole. @param {Token} token @param {boolean} isWhole */
function drawPart(token, isWhole) {
  if (token.type === "checkbox") return checkbox(token);
  return token.type === "paragraph" ? el("p", {}, ...inlines(token.tokens)) : drawBlock(token, isWhole);
}

/** @param {Tokens.Table} table */
function drawTable(table) {
  const row = (/** @type {Tokens.TableCell[]} */ cells, /** @type {"th" | "td"} */ tag) =>
    el("tr", {}, ...cells.map((cell) => el(tag, { class: cell.align, dir: "auto" }, ...inlines(cell.tokens))));
  const head = el("thead", {}, row(table.header, "th"));
  const body = el("tbody", {}, ...table.rows.map((cells) => row(cells, "td")));
  return el("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, el("table", {}, head, body));
}

/** @param {Token[]} [tokens] @returns {Node[]} */
function inlines(tokens = []) {
  return tokens.map(inline);
}

/** @param {Token} token @returns {Node} */
function inline(token) {
  const t = /** @type {any} */ (token);
  switch (token.type) {
    case "strong":
    case "em":
    case "del":
      return el(token.type, {}, ...inlines(t.tokens));
    case "codespan":
      return el("code", { dir: "ltr" }, t.text);
    case "br":
      return el("br");
    case "link":
      return drawLink(t.href, inlines(t.tokens));
    case "image":
      return drawLink(t.href, [`Picture: ${t.text || t.href}`]);
    case "formula":
      return drawFormula(t.tex, t.isDisplayed);
    case "checkbox":
      return checkbox(token);
    case "html":
      return /^<br ?\/?>$/i.test(token.raw.trim()) ? el("br") : document.createTextNode(token.raw);
    case "text":
      return t.tokens ? el("span", {}, ...inlines(t.tokens)) : document.createTextNode(t.text);
    default:
      return document.createTextNode(t.text ?? token.raw);
  }
}

/** @param {string} address @param {(Node | string)[]} children */
function drawLink(address, children) {
  if (!SAFE_ADDRESS.test(address)) return el("span", {}, ...children);
  const safety = { target: "_blank", rel: "noopener noreferrer nofollow" };
  return el("a", { href: address, title: address, ...safety }, ...children);
}

/** @param {Token} token */
function checkbox(token) {
  const isChecked = Boolean(/** @type {Tokens.Checkbox} */ (token).checked);
  return el("input", { type: "checkbox", disabled: true, checked: isChecked, "aria-label": isChecked ? "Done" : "Open" });
}
