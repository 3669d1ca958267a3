// Finds formulas in Markdown, as an extension of marked, and draws them with temml as MathML.

/** @import { TokenizerAndRendererExtension } from "../vendor/marked/marked.esm.js" */

/** @typedef {{ render(tex: string, element: HTMLElement, options: object): void }} Temml */

/** A formula in a line: `$a$` (without a blank inside its dollars, as in pandoc), `\(a\)`, or displayed. */
const INLINE = /^(?:\$\$([^$]+?)\$\$|\\\[([^]+?)\\\]|\$(?![\s$])((?:\\.|[^\\$\n])*?[^\s\\$])\$(?!\d)|\\\(([^]+?)\\\))/;
const BLOCK = /^ {0,3}(?:\$\$([^]+?)\$\$|\\\[([^]+?)\\\])[ \t]*(?:\n|$)/;

/** Formulas that were drawn, because the last block of an answer is drawn again with each of its pieces. @type {Map<string, Node>} */
const drawn = new Map();
const MOST_KEPT = 1000;

/** @type {TokenizerAndRendererExtension[]} */
export const extensions = [
  {
    name: "formulaBlock",
    level: "block",
    start: blockStart,
    tokenizer(text) {
      const match = BLOCK.exec(text);
      if (match === null) return undefined;
      return { type: "formula", raw: match[0], tex: match[1] ?? match[2], isDisplayed: true };
    },
  },
  {
    name: "formula",
    level: "inline",
    start: inlineStart,
    tokenizer(text) {
      const match = INLINE.exec(text);
      if (match === null) return undefined;
      const displayed = match[1] ?? match[2];
      const tex = displayed ?? match[3] ?? match[4];
      return { type: "formula", raw: match[0], tex, isDisplayed: displayed !== undefined };
    },
  },
];

// marked asks where the next formula begins before each paragraph and each piece of text. Searching the whole rest each
// time would take quadratic time, so both look no further than where marked stops anyway.

/** @param {string} text @returns {number | undefined} where a formula interrupts the paragraph */
function blockStart(text) {
  const end = text.search(/\n[ \t]*\n/);
  const paragraph = end < 0 ? text : text.slice(0, end);
  return paragraph.match(/^ {0,3}(?:\$\$|\\\[)/m)?.index;
}

/** @param {string} text @returns {number | undefined} where a formula begins before anything else that ends plain text */
function inlineStart(text) {
  const next = text.match(/[$\\<![`*]/)?.index;
  return next !== undefined && /^(?:\$|\\[([])/.test(text.slice(next, next + 2)) ? next : undefined;
}

/** @param {string} tex @param {boolean} isDisplayed @returns {HTMLElement} */
export function drawFormula(tex, isDisplayed) {
  const element = document.createElement("span");
  element.className = isDisplayed ? "formula displayed" : "formula";
  element.textContent = tex;
  element.setAttribute("dir", "ltr");
  whenLoaded((temml) => render(temml, tex, element, isDisplayed));
  return element;
}

/** @param {Temml} temml @param {string} tex @param {HTMLElement} element @param {boolean} displayMode */
function render(temml, tex, element, displayMode) {
  const key = `${displayMode} ${tex}`;
  const known = drawn.get(key);
  if (known !== undefined) return element.replaceChildren(known.cloneNode(true));
  try {
    temml.render(tex, element, { displayMode, trust: false, throwOnError: true, maxExpand: 200, maxSize: [20, 40] });
    keep(key, element.firstChild);
  } catch {
    element.textContent = tex; // not a formula, or not yet a whole one
  }
}

/** @param {string} key @param {Node | null} node */
function keep(key, node) {
  if (drawn.size === MOST_KEPT) drawn.clear();
  if (node !== null) drawn.set(key, node.cloneNode(true));
}

/** temml is an ordinary script, which may arrive later than this module. @param {(temml: Temml) => void} draw */
function whenLoaded(draw) {
  const { temml } = /** @type {{ temml?: Temml }} */ (globalThis);
  if (temml !== undefined) draw(temml);
  else document.getElementById("temml")?.addEventListener("load", () => whenLoaded(draw), { once: true });
}
