// Draws blocks of code, with a button that copies them, and highlights the languages that it knows.

import { el } from "../core/dom.js";
import { copyButton } from "../core/clipboard.js";
import hljs from "../vendor/highlight/core.min.js";

/** @import { Highlighted } from "../vendor/highlight/core.min.js" */

const ALIASES = new Map(
  Object.entries({
    sh: "bash", shell: "bash", zsh: "bash", console: "bash", h: "c", "c++": "cpp", cc: "cpp", hpp: "cpp", patch: "diff",
    golang: "go", toml: "ini", conf: "ini", js: "javascript", jsx: "javascript", mjs: "javascript", json5: "json",
    jsonc: "json", md: "markdown", py: "python", python3: "python", pycon: "python", rs: "rust", ts: "typescript",
    tsx: "typescript", html: "xml", svg: "xml", vue: "xml", yml: "yaml",
  }),
);
const LANGUAGES = new Set([...ALIASES.values(), "css", "java", "sql"]);
const LONGEST = 50_000; // characters; a longer block stays plain, because highlighting takes time

/**
 * @param {string} text @param {string} label the language as the model wrote it @param {boolean} isWhole
 * @returns {HTMLElement}
 */
export function drawCode(text, label, isWhole) {
  const code = el("code", { dir: "ltr" }, text);
  const name = label.trim().split(/\s/)[0] ?? "";
  if (isWhole && text.length < LONGEST) highlight(code, text, name.toLowerCase());
  return el(
    "figure",
    { class: "code" },
    el("figcaption", {}, el("span", {}, name || "text"), copyButton(() => code.textContent ?? "", "Copy code")),
    el("pre", { tabindex: "0", "aria-label": name ? `Code in ${name}` : "Code" }, code),
  );
}

/** @param {HTMLElement} code @param {string} text @param {string} name */
async function highlight(code, text, name) {
  const language = ALIASES.get(name) ?? name;
  if (!LANGUAGES.has(language)) return;
  if (hljs.getLanguage(language) === undefined) {
    const grammar = await import(`../vendor/highlight/languages/${language}.min.js`).catch(() => null);
    if (grammar === null) return; // the server does not answer, so the code stays plain
    hljs.registerLanguage(language, grammar.default);
  }
  const result = hljs.highlight(text, { language, ignoreIllegals: true });
  code.replaceChildren(...nodes(result._emitter.rootNode.children)); // the tree, not its HTML
}

/** @param {Highlighted[]} children @returns {(Node | string)[]} */
function nodes(children) {
  return children.map((child) =>
    typeof child === "string" ? child : el("span", { class: classOf(child.scope) }, ...nodes(child.children)),
  );
}

/** @param {string | undefined} scope such as `title.function` */
function classOf(scope) {
  return scope === undefined || scope.startsWith("language:") ? "" : `hl-${scope.split(".")[0]}`;
}
