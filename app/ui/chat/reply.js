// Shows the parts of a reply: its thinking, folded, its text, its calls of tools and their results.

import { el, fill } from "../core/dom.js";
import { duration, percent, size } from "../core/format.js";
import { icon } from "../core/icons.js";
import { MarkdownView } from "../markdown/view.js";

/** @import { LoadProgress, MessagePart } from "../wire.d.ts" */

export class ReplyBody {
  constructor() {
    this.element = el("div", { class: "reply" });
    this.status = el("p", { class: "status", role: "status" });
    /** @type {{ type: string, id: string, add: (text: string) => void, finish: () => void } | null} */
    this.last = null;
  }

  /** Shows all parts. @param {MessagePart[]} parts @param {boolean} isWhole */
  show(parts, isWhole) {
    this.element.replaceChildren();
    this.last = null;
    for (const part of parts) {
      if (part.type === "text" || part.type === "thinking") this.add(part.type, part.text);
      else if (part.type === "tool_call") this.addCall(part.id, part.name, part.arguments);
      else this.#begin(part.id, toolBlock("Result", part.content, part.id));
    }
    if (isWhole) this.finish();
  }

  /** @param {"text" | "thinking"} type @param {string} text */
  add(type, text) {
    this.wait(null);
    if (this.last?.type !== type) this.#begin("", type === "text" ? textBlock() : thinkingBlock());
    this.last?.add(text);
  }

  /** @param {string} id @param {string} name @param {string} argumentsText */
  addCall(id, name, argumentsText) {
    this.wait(null);
    if (this.last?.id === id) this.last.add(argumentsText);
    else this.#begin(id, toolBlock(name, argumentsText, id));
  }

  /** Shows why there is no text yet; null: there is. @param {string | null} reason */
  wait(reason) {
    if (reason === null) this.status.remove();
    else if (this.status.textContent !== reason) fill(this.status, reason);
    if (reason !== null && !this.status.isConnected) this.element.append(this.status);
  }

  finish() {
    this.wait(null);
    this.last?.finish();
    this.last = null;
  }

  /** @param {string} id @param {{ type: string, element: HTMLElement, add: (text: string) => void, finish: () => void }} block */
  #begin(id, block) {
    this.last?.finish();
    this.last = { ...block, id };
    this.element.append(block.element);
  }
}

/** What the stages of a load are called. @type {Record<string, string>} */
const STAGES = {
  resolve: "finding its files",
  verify: "checking its files",
  drain: "waiting for answers of the model before it",
  convert: "converting its weights",
  import: "starting its process",
  load: "reading its weights",
  check: "checking its first results",
  pack: "arranging its weights",
  "warm up": "warming up",
};

/** @param {LoadProgress} progress */
export function progressText({ model_name, stage, fraction, done_bytes, total_bytes, seconds_left }) {
  if (stage !== "download" || done_bytes === null || total_bytes === null) return `Loading ${model_name}: ${STAGES[stage] ?? stage}, ${percent(fraction)}`;
  const left = seconds_left === null ? "" : `, ${duration(seconds_left)} left`;
  return `Downloading ${model_name}: ${size(done_bytes)} of ${size(total_bytes)}${left}`;
}

function textBlock() {
  const view = new MarkdownView();
  return {
    type: "text",
    element: view.element,
    add: (/** @type {string} */ text) => view.append(text),
    finish: () => view.finish(),
  };
}

function thinkingBlock() {
  const text = el("div", { class: "thoughts", dir: "auto" });
  const label = el("span", { class: "pulse" }, "Thinking");
  const element = el("details", { class: "fold" }, el("summary", {}, label, icon("down")), text);
  const finish = () => {
    label.textContent = "Thoughts";
    label.className = "";
  };
  return { type: "thinking", element, add: (/** @type {string} */ piece) => text.append(piece), finish };
}

/** @param {string} name @param {string} content @param {string} id */
function toolBlock(name, content, id) {
  const code = el("code", { dir: "auto" }, content);
  const summary = el("summary", { title: id }, icon("tool"), el("span", {}, name), icon("down"));
  const element = el("details", { class: "fold tool" }, summary, el("pre", { tabindex: "0" }, code));
  const finish = () => {
    code.textContent = indented(code.textContent ?? "");
  };
  return { type: "tool", element, add: (/** @type {string} */ piece) => code.append(piece), finish };
}

/** @param {string} text @returns {string} its JSON on several lines, or the text itself */
function indented(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
