// The menu of models: their states and sizes, and switching between them, with progress.

import { call, stream } from "../core/api.js";
import { byId, el, fill } from "../core/dom.js";
import { refill } from "../core/focus.js";
import { percent, size } from "../core/format.js";
import { changed, onChange, state } from "../core/state.js";
import { progressText } from "../chat/reply.js";
import { sayError, toast } from "./toast.js";

/** @import { LoadProgress, ModelEntry, ModelListResponse } from "../wire.d.ts" */

const POLL_MS = 1000; // while a model loads that this page does not load itself
const STATES = { available: "", loading: "Loading", loaded: "Loaded", failed: "Failed" };

export class ModelMenu {
  /** @param {{ own: () => string | null, chosen: (name: string) => Promise<void> }} conversation its own model, if it has one */
  constructor(conversation) {
    this.conversation = conversation;
    this.button = byId("model", HTMLButtonElement);
    this.menu = byId("models", HTMLDivElement);
    /** @type {{ name: string, progress: LoadProgress | null, stop: AbortController } | null} */
    this.switching = null;
    this.polling = 0;
    this.menu.addEventListener("toggle", () => this.isOpen && this.load());
    onChange("models", () => this.draw());
    onChange("conversation", () => this.draw());
  }

  get isOpen() {
    return this.menu.matches(":popover-open");
  }

  /** The name of the model that answers in the open conversation. */
  get name() {
    return this.conversation.own() ?? state.currentModel;
  }

  async load() {
    clearTimeout(this.polling);
    try {
      /** @type {ModelListResponse} */
      const found = await call("GET", "chat/models");
      Object.assign(state, { models: found.models, currentModel: found.current_model });
      changed("models");
    } catch {
      // the page says elsewhere that the server does not answer
    }
    const isLoading = state.models.some((model) => model.status === "loading");
    if (isLoading && this.switching === null) this.polling = setTimeout(() => this.load(), POLL_MS);
  }

  draw() {
    const current = state.models.find((model) => model.name === this.name);
    const busy = this.switching ?? state.models.find((model) => model.status === "loading") ?? null;
    const label = busy === null ? (current?.display_name ?? this.name ?? "No model") : `${busy.name}: loading`;
    const share = busy?.progress && el("span", {}, ` ${percent(busy.progress.fraction)}`); // which a long name does not push out
    fill(byId("model-name", HTMLSpanElement), el("span", {}, label), share ?? null);
    this.button.classList.toggle("busy", busy !== null);
    if (!this.isOpen) return;
    const ordered = [...state.models].sort((a, b) => rank(a) - rank(b));
    refill(this.menu, [el("h2", {}, "Models"), el("ul", {}, ...ordered.map((model) => this.#row(model)))]);
  }

  /** @param {ModelEntry} model */
  #row(model) {
    const isChosen = model.name === this.name;
    const progress = this.switching?.name === model.name ? this.switching.progress : model.progress;
    const problem = problemOf(model);
    const isLoading = model.status === "loading" || this.switching?.name === model.name;
    const choose = el(
      "button",
      { type: "button", class: "model", "data-key": model.name, "aria-pressed": String(isChosen), disabled: isLoading, onclick: () => this.switchTo(model) },
      el("span", { class: "name" }, model.display_name),
      el("span", { class: "facts" }, factsOf(model)),
      el("span", { class: "about" }, problem ?? model.description),
    );
    return el("li", { class: problem && "has-failed" }, choose, isLoading && this.#progress(model, progress));
  }

  /** @param {ModelEntry} model @param {LoadProgress | null} progress */
  #progress(model, progress) {
    const text = progress === null ? "Starting…" : progressText(progress);
    return el(
      "div",
      { class: "loading" },
      el("progress", { max: 1, value: progress?.fraction ?? null, "aria-label": text }),
      el("span", {}, text),
      el("button", { type: "button", class: "quiet", "data-key": model.name, onclick: () => this.#cancel(model) }, "Cancel"),
    );
  }

  /** Makes the model the current one, and that of the open conversation. @param {ModelEntry} model */
  async switchTo(model) {
    if (this.switching !== null || model.name === this.name) return;
    const stop = new AbortController();
    this.switching = { name: model.name, progress: null, stop };
    this.draw();
    try {
      for await (const { name, data } of stream("POST", "chat/switch-model", { model_name: model.name, stream: true }, stop.signal)) {
        if (name === "progress") this.switching.progress = data;
        else if (name === "done") await this.#switched(model.name, data.message);
        else if (name === "error") toast(`${data.error.message} ${data.error.hint ?? ""}`);
        this.draw();
      }
    } catch (error) {
      if (stop.signal.aborted) toast(`Loading ${model.name} was cancelled.`);
      else sayError(error);
    } finally {
      this.switching = null;
      await this.load();
    }
  }

  /** @param {string} name @param {string} message */
  async #switched(name, message) {
    if (this.isOpen) this.menu.hidePopover();
    toast(`${message}.`);
    await this.conversation.chosen(name);
  }

  /** @param {ModelEntry} model */
  async #cancel(model) {
    try {
      if (this.switching?.name === model.name) this.switching.stop.abort();
      else await call("POST", "unload-model", { model_name: model.name });
      await this.load();
    } catch (error) {
      sayError(error);
    }
  }
}

/** Why the model cannot be used, if it cannot. @param {ModelEntry} model @returns {string | null} */
function problemOf(model) {
  if (model.status === "failed") return model.error ?? "It could not be loaded.";
  if (!model.is_too_large || model.status === "loaded") return null;
  const need = model.memory_bytes === null ? "" : `, because it needs ${size(model.memory_bytes)} of memory`;
  return `Too large for this machine${need}.`;
}

/** The current model first, then those that answer at once, then those on the disk. @param {ModelEntry} model */
function rank(model) {
  if (model.is_current) return 0;
  if (model.status === "loaded" || model.status === "loading") return 1;
  if (model.is_too_large) return 4;
  return model.is_on_disk ? 2 : 3;
}

/** @param {ModelEntry} model */
function factsOf(model) {
  const place = model.is_on_disk || model.status === "loaded" ? "" : "to download";
  return [STATES[model.status], model.size_bytes && `${size(model.size_bytes)} ${place}`.trim()].filter(Boolean).join(" · ");
}
