// The field for the next message, its files, and the button that sends or stops.

import { byId, fill } from "../core/dom.js";
import { icon } from "../core/icons.js";
import { attachmentsOf, fenced } from "./attachments.js";
import { draftOf, keepDraft } from "./drafts.js";
import { Files } from "./files.js";

/** @import { Draft } from "./drafts.js" */

const TALLEST = 240; // pixels

export class Composer {
  /** @param {{ send: (text: string) => void, stop: () => void, editLast: () => void }} actions */
  constructor(actions) {
    this.actions = actions;
    this.field = byId("message", HTMLTextAreaElement);
    this.button = byId("send", HTMLButtonElement);
    this.picker = byId("picker", HTMLInputElement);
    this.files = new Files(() => this.#fit(), () => this.focus());
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
    this.field.value = draftOf(id).words;
    this.files.show(id);
  }

  /** Lets what was written be for another conversation, before what was written in that one. @param {string | null} id */
  moveTo(id) {
    const moved = draftOf(this.id);
    keepDraft(this.id, { words: "", files: [] });
    this.#putBefore(moved, id);
    this.files.moveTo(id);
    this.show(id);
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
  #putBefore({ words, files, lost = [] }, id) {
    const later = draftOf(id);
    const both = [words, later.words].filter(Boolean).join("\n\n");
    keepDraft(id, { words: both, files: [...files, ...later.files], lost: [...lost, ...later.lost] });
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
    const text = [words, ...this.files.attached.map(fenced)].filter(Boolean).join("\n\n");
    if (text === "" || this.files.isReading) return;
    keepDraft(this.id, { words: "", files: [] });
    this.show(this.id);
    this.actions.send(text);
  }

  /** @param {File[]} files */
  attach(files) {
    this.picker.value = "";
    this.files.attach(files);
    this.focus();
  }

  #fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, TALLEST)}px`;
    const { attached: files, lost, isReading } = this.files;
    const isEmpty = this.field.value.trim() === "" && files.length === 0;
    keepDraft(this.id, { words: this.field.value, files, lost });
    this.button.disabled = !this.isRunning && (isEmpty || isReading);
  }
}
