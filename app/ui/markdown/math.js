// Finds formulas in Markdown, as an extension of marked, and draws them with temml as MathML.

/** @import { TokenizerAndRendererExtension } from "../vendor/marked/marked.esm.js" */

/** @typedef {{ render(tex: string, element: HTMLElement, options: object): void }} Temml */

/** A formula in a line: `$a$` (without a blank inside its dollars, as in pandoc), `\(a\)`, or displayed. */
const INLINE = /^(?:\$\$([^$]+?)\$\$|\\\[([^]+?)\\\]|\$(?![\s$])((?:\\.|[^\\$\n])*?[^\s\\$])\$(?!\d)|\\\(([^]+?)\\\))/;
const BLOCK = /^ {0,3}(?:\$\$([^]+?)\$\$|\\\[([^]+?)\\\])[ \t]*(?:\n|$)/;

/** @type {TokenizerAndRendererExtension[]} */
export const extensions = [
  {
    name: "formulaBlock",
    level: "block",
    start: (text) => text.match(/^ {0,3}(?:\$\$|\\\[)/m)?.index,
    tokenizer(text) {
      const match = BLOCK.exec(text);
      if (match === null) return undefined;
      return { type: "formula", raw: match[0], tex: match[1] ?? match[2], isDisplayed: true };
    },
  },
  {
    name: "formula",
    level: "inline",
    start: (text) => text.match(/\$|\\[([]/)?.index,
    tokenizer(text) {
      const match = INLINE.exec(text);
      if (match === null) return undefined;
      const displayed = match[1] ?? match[2];
      const tex = displayed ?? match[3] ?? match[4];
      return { type: "formula", raw: match[0], tex, isDisplayed: displayed !== undefined };
    },
  },
];

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
  try {
    temml.render(tex, element, { displayMode, trust: false, throwOnError: true, maxExpand: 200, maxSize: [20, 40] });
  } catch {
    element.textContent = tex; // not a formula, or not yet a whole one
  }
}

/** temml is an ordinary script, which may arrive later than this module. @param {(temml: Temml) => void} draw */
function whenLoaded(draw) {
  const { temml } = /** @type {{ temml?: Temml }} */ (globalThis);
  if (temml !== undefined) draw(temml);
  else document.getElementById("temml")?.addEventListener("load", () => whenLoaded(draw), { once: true });
}
