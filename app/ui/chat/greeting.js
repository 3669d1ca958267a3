// What a new conversation shows before its first message: which model answers, and a few things to ask.

import { byId, el, fill } from "../core/dom.js";

/** @import { HealthResponse, ModelEntry } from "../wire.d.ts" */

const EXAMPLES = ["What is the capital of France?", "What is 12 + 30?", "Tell me a joke.", "Write a function that adds two numbers."];

/**
 * @param {boolean} isShown @param {{ models: ModelEntry[], health: HealthResponse | null }} state
 * @param {(text: string) => void} ask
 */
export function greeting(isShown, { models, health }, ask) {
  const place = byId("greeting", HTMLDivElement);
  place.hidden = !isShown;
  if (!isShown) return;
  const current = models.find((model) => model.is_current);
  const about = current === undefined ? "" : `Model: ${current.display_name}`;
  const note = health?.note ?? "";
  fill(
    place,
    el("h1", {}, "What is on your mind?"),
    el("p", { class: "about" }, note || about),
    el("div", { class: "examples" }, ...EXAMPLES.map((text) => el("button", { type: "button", onclick: () => ask(text) }, text))),
  );
}
