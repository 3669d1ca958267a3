// The field for the next message, its files, and the button that sends or stops.

import { call } from "../core/api.js";
import { byId, el, fill, iconButton } from "../core/dom.js";
import { count, size } from "../core/format.js";
import { icon } from "../core/icons.js";
import { toast } from "../panels/toast.js";
import { attachmentsOf, fenced, readText } from "./attachments.js";
import { draftOf, keepDraft } from "./drafts.js";

/** @import { TextFile } from "./attachments.js" */
/** @import { Draft } from "./drafts.js" */

const TALLEST = 240; // pixels

export class Composer {
  /** @param {{ send: (text: string) => void, stop: () => void, editLast: () => void }} actions */
  constructor(actions) {
    this.actions = actions;
    this.field = byId("message", HTMLTextAreaElement);
    this.button = byId("send", HTMLButtonElement);
    this.list = byId("files", HTMLUListElement);
    this.picker = byId("picker", HTMLInputElement);
    /** @type {TextFile[]} */
    this.files = [];
    this.isRunning = false;
    /** @type {string | null} the conversation that the message is for; null: one that has not begun */
    this.id = null;
    this.show(null);
    this.showRunning(false);
    this.#listen();
  }

  /** Shows what was written in a conversation and not sent. @param {string | null} id */
  show(id) {
    this.id = id;
    const { words, files } = draftOf(id);
    this.files = files;
    this.#showFiles();
    this.text = words;
  }

  /** Lets what was written be for another conversation, before what was written in that one. @param {string | null} id */
  moveTo(id) {
    const moved = draftOf(this.id);
    keepDraft(this.id, { words: "", files: [] });
    this.#putBefore(moved, id);
    this.show(id);
  }

  /** @param {string} text */
  set text(text) {
    this.field.value = text;
    this.#fit();
  }

  /**
   * Puts a message with its files before what was written in its conversation.
   * @param {string} message @param {string | null} id of the conversation
   */
  giveBack(message, id) {
    this.#putBefore(attachmentsOf(message), id);
    if (id === this.id) this.show(id);
  }

  /** @param {Draft} draft @param {string | null} id */
  #putBefore({ words, files }, id) {
    const later = draftOf(id);
    keepDraft(id, { words: [words, later.words].filter(Boolean).join("\n\n"), files: [...files, ...later.files] });
  }

  focus() {
    this.field.focus();
  }

  /** @param {boolean} isRunning whether a turn runs, which the button then stops */
  showRunning(isRunning) {
    this.isRunning = isRunning;
    const name = isRunning ? "Stop" : "Send";
    fill(this.button, icon(isRunning ? "stop" : "send"));
    this.button.setAttribute("aria-label", name);
    this.button.title = isRunning ? "Stop (Esc)" : "Send (Enter)";
    this.button.classList.toggle("stops", isRunning);
    this.#fit();
  }

  #listen() {
    byId("composer", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.isRunning) this.actions.stop();
      else this.#send();
    });
    this.field.addEventListener("input", () => this.#fit());
    this.field.addEventListener("keydown", (event) => this.#key(event));
    this.field.addEventListener("paste", (event) => this.#take(event, event.clipboardData));
    const attach = byId("attach", HTMLButtonElement);
    attach.addEventListener("click", () => this.picker.click());
    this.picker.addEventListener("change", () => this.attach([...(this.picker.files ?? [])]));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => this.#take(event, event.dataTransfer));
  }

  /** @param {Event} event @param {DataTransfer | null} data */
  #take(event, data) {
    const files = [...(data?.files ?? [])];
    if (files.length === 0) return;
    event.preventDefault();
    this.attach(files);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      if (!this.isRunning) this.#send();
    } else if (event.key === "ArrowUp" && this.field.value === "" && !this.isRunning) {
      event.preventDefault();
      this.actions.editLast();
    }
  }

  #send() {
    const words = this.field.value.trim();
    const text = [words, ...this.files.map(fenced)].filter(Boolean).join("\n\n");
    if (text === "") return;
    this.files = [];
    this.#showFiles();
    this.text = "";
    this.actions.send(text);
  }

  /** @param {File[]} files */
  async attach(files) {
    this.picker.value = "";
    for (const file of files) {
      try {
        this.files.push(await readText(file));
      } catch (error) {
        toast(/** @type {Error} */ (error).message);
      }
    }
    this.#showFiles();
    this.focus();
  }

  #showFiles() {
    fill(this.list, ...this.files.map((file) => this.#chip(file)));
    this.list.hidden = this.files.length === 0;
    this.#fit();
  }

  /** @param {TextFile} file */
  #chip(file) {
    const bytes = size(new Blob([file.text]).size);
    const facts = el("span", { class: "facts" }, bytes);
    countTokens(file).then((tokens) => fill(facts, tokens === null ? bytes : `${bytes}, ${count(tokens)} tokens`));
    const remove = () => {
      this.files = this.files.filter((other) => other !== file);
      this.#showFiles();
    };
    return el("li", {}, icon("clip"), el("span", { class: "name" }, file.name), facts, iconButton(icon("close"), `Remove ${file.name}`, remove));
  }

  #fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, TALLEST)}px`;
    keepDraft(this.id, { words: this.field.value, files: this.files });
    this.button.disabled = !this.isRunning && this.field.value.trim() === "" && this.files.length === 0;
  }
}

/** @param {TextFile} file @returns {Promise<number | null>} null if the server cannot count now */
async function countTokens(file) {
  try {
    return (await call("POST", "count", { prompt: fenced(file) })).tokens;
  } catch {
    return null;
  }
}
