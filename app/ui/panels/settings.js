// The drawer with the system prompt and the sampling parameters. Empty fields leave the model's defaults.

import { call } from "../core/api.js";
import { byId, el, fill } from "../core/dom.js";

/** @import { Chat } from "../chat/chat.js" */
/** @import { ModelInfoResponse, SamplingValue } from "../wire.d.ts" */

/**
 * @typedef {object} Field
 * @property {string} name @property {string} label @property {string} help
 * @property {number} min @property {number} max @property {number} step
 * @property {string} [unset] what an empty field means if the model has no default
 */

/** @type {Field[]} */
const FIELDS = [
  { name: "temperature", label: "Temperature", help: "0 always takes the likeliest token.", min: 0, max: 2, step: 0.01 },
  { name: "top_p", label: "Top p", help: "Samples from the likeliest tokens with this probability together.", min: 0.01, max: 1, step: 0.01 },
  { name: "top_k", label: "Top k", help: "Samples from this many of the likeliest tokens. 0: no limit.", min: 0, max: 1000, step: 1 },
  { name: "min_p", label: "Min p", help: "Leaves out tokens below this share of the likeliest one.", min: 0, max: 1, step: 0.005 },
  { name: "repetition_penalty", label: "Repetition penalty", help: "Above 1, tokens repeat less.", min: 0.1, max: 2, step: 0.01 },
  { name: "presence_penalty", label: "Presence penalty", help: "Above 0, the answer repeats itself less.", min: -2, max: 2, step: 0.01, unset: "0" },
  { name: "frequency_penalty", label: "Frequency penalty", help: "As above, once for each repetition.", min: -2, max: 2, step: 0.01, unset: "0" },
  { name: "max_tokens", label: "Longest answer", help: "In tokens.", min: 1, max: 1_000_000, step: 1 },
  { name: "seed", label: "Seed", help: "The same seed draws the same answer.", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, unset: "random" },
];
const ORIGINS = { profile: "model", generation_config: "model", default: "server" };
const STORED = "settings";

/** @typedef {{ values: Record<string, number>, stop: string[], think: boolean | null }} Settings */

/** @type {Settings} */
export const settings = { values: {}, stop: [], think: null, ...JSON.parse(localStorage.getItem(STORED) ?? "{}") };

/** The fields of a request for a reply that the person has set. */
export function requestFields() {
  const stop = settings.stop.length > 0 ? { stop: settings.stop } : {};
  const think = settings.think === null ? {} : { think: settings.think };
  return { ...settings.values, ...stop, ...think };
}

export class SettingsDrawer {
  /** @param {Chat} chat @param {() => string | null} modelName the model that answers in the open conversation */
  constructor(chat, modelName) {
    this.chat = chat;
    this.modelName = modelName;
    this.dialog = byId("settings", HTMLDialogElement);
    this.prompt = byId("system-prompt", HTMLTextAreaElement);
    this.fields = byId("sampling", HTMLDivElement);
    this.prompt.addEventListener("input", () => {
      chat.newPrompt = this.prompt.value;
    });
    byId("reset", HTMLButtonElement).addEventListener("click", () => this.#reset());
  }

  open() {
    this.prompt.value = this.chat.newPrompt ?? this.chat.conversation?.system_prompt ?? "";
    this.#show();
    this.dialog.showModal();
  }

  /** Shows the values, and the model's defaults as soon as they are known. */
  async #show() {
    const inputs = FIELDS.map((field) => numberInput(field));
    const rows = FIELDS.map(({ name, label, help }, index) => row(`set-${name}`, label, help, /** @type {HTMLElement} */ (inputs[index])));
    fill(this.fields, ...rows, this.#stopRow(), this.#thinkRow());
    const model = this.modelName();
    const query = model === null ? "" : `?model_name=${encodeURIComponent(model)}`;
    /** @type {ModelInfoResponse | null} */
    const info = await call("GET", `model-info${query}`).catch(() => null); // without it, the defaults are not shown
    for (const [index, { name, unset }] of FIELDS.entries()) inputs[index]?.setAttribute("placeholder", defaultOf(info?.sampling?.[name], unset));
  }

  #stopRow() {
    const input = el("textarea", { id: "set-stop", rows: 2, placeholder: "none" });
    input.value = settings.stop.join("\n");
    input.addEventListener("input", () => {
      settings.stop = input.value.split("\n").filter(Boolean);
      keep();
    });
    return row("set-stop", "Stop texts", "Each line ends the answer where it appears.", input);
  }

  #thinkRow() {
    const choices = { default: "As the model does", on: "Think first", off: "Answer at once" };
    const chosen = settings.think === null ? "default" : settings.think ? "on" : "off";
    const options = Object.entries(choices).map(([value, text]) => el("option", { value, selected: value === chosen }, text));
    const input = el("select", { id: "set-think" }, ...options);
    input.addEventListener("change", () => {
      settings.think = { default: null, on: true, off: false }[input.value] ?? null;
      keep();
    });
    return row("set-think", "Thinking", "For models that can think before they answer.", input);
  }

  #reset() {
    Object.assign(settings, { values: {}, stop: [], think: null });
    keep();
    this.#show();
  }
}

/** @param {Field} field */
function numberInput({ name, min, max, step }) {
  const input = el("input", { type: "number", id: `set-${name}`, min, max, step, value: settings.values[name] });
  input.addEventListener("input", () => {
    if (input.value === "" && input.validity.valid) delete settings.values[name];
    else if (input.validity.valid) settings.values[name] = input.valueAsNumber;
    keep();
  });
  input.addEventListener("change", () => input.reportValidity());
  return input;
}

/** @param {SamplingValue | undefined} standard @param {string} [unset] */
function defaultOf(standard, unset = "") {
  return standard === undefined ? unset : `${standard.value} (${ORIGINS[standard.origin]})`;
}

/** @param {string} id @param {string} label @param {string} help @param {HTMLElement} input */
function row(id, label, help, input) {
  input.setAttribute("aria-describedby", `${id}-help`);
  return el("div", { class: "row" }, el("label", { for: id }, label), input, el("p", { id: `${id}-help` }, help));
}

function keep() {
  localStorage.setItem(STORED, JSON.stringify(settings));
}
