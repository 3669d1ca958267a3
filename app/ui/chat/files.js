// The files of the next message: read, shown with their sizes, and taken away again.

import { call } from "../core/api.js";
import { byId, el, fill, iconButton } from "../core/dom.js";
import { count, size } from "../core/format.js";
import { icon } from "../core/icons.js";
import { toast } from "../panels/toast.js";
import { fenced, readText } from "./attachments.js";
import { draftOf, keepDraft } from "./drafts.js";

/** @import { TextFile } from "./attachments.js" */

/** @typedef {{ file: File, id: string | null }} Reading  a file that is being read, and the conversation that it is for */

export class Files {
  /** @param {() => void} changed called when the files of the shown conversation have changed @param {() => void} left gets the focus */
  constructor(changed, left) {
    this.changed = changed;
    this.left = left;
    this.list = byId("files", HTMLUListElement);
    /** @type {string | null} the conversation whose files are shown */
    this.id = null;
    /** @type {Set<Reading>} */
    this.readings = new Set();
    /** @type {Map<TextFile, HTMLLIElement>} those that are shown */
    this.chips = new Map();
  }

  get attached() {
    return draftOf(this.id).files;
  }

  /** The names of files that were too large to be kept when the page was left. */
  get lost() {
    return draftOf(this.id).lost;
  }

  /** Whether a file of the shown conversation is not read yet. */
  get isReading() {
    return this.#reading.length > 0;
  }

  get #reading() {
    return [...this.readings].filter((reading) => reading.id === this.id);
  }

  /** @param {string | null} id of a conversation */
  show(id) {
    this.id = id;
    this.draw();
  }

  /** Lets files that are not read yet be for another conversation. @param {string | null} id */
  moveTo(id) {
    for (const reading of this.#reading) reading.id = id;
  }

  /** Reads files for the conversation that is shown now, also if another one is shown before they are read. @param {File[]} files */
  async attach(files) {
    const readings = files.map((file) => ({ file, id: this.id }));
    for (const reading of readings) this.readings.add(reading);
    this.draw();
    for (const reading of readings) await this.#read(reading);
  }

  /** @param {Reading} reading */
  async #read(reading) {
    try {
      const file = await readText(reading.file);
      if (!this.readings.has(reading)) return; // it was taken away meanwhile
      const { words, files, lost } = draftOf(reading.id);
      keepDraft(reading.id, { words, files: [...files, file], lost: lost.filter((name) => name !== file.name) });
    } catch (error) {
      toast(/** @type {Error} */ (error).message);
    }
    this.readings.delete(reading);
    if (reading.id === this.id) this.draw();
  }

  draw() {
    const { files, lost } = draftOf(this.id);
    this.chips = new Map(files.map((file) => [file, this.chips.get(file) ?? this.#fileChip(file)]));
    const reading = this.#reading.map((each) => chip(each.file.name, "reading…", () => this.#forget(each)));
    const missing = lost.map((name) => chip(name, "too large to be kept: attach it again", () => this.#keep(files, without(lost, name)), "lost"));
    const all = [...missing, ...this.chips.values(), ...reading];
    fill(this.list, ...all);
    this.list.hidden = all.length === 0;
    this.changed();
  }

  /** @param {TextFile[]} files @param {string[]} lost */
  #keep(files, lost) {
    keepDraft(this.id, { words: draftOf(this.id).words, files, lost });
    this.#removed();
  }

  /** @param {Reading} reading */
  #forget(reading) {
    this.readings.delete(reading);
    this.#removed();
  }

  #removed() {
    this.draw();
    this.left();
  }

  /** @param {TextFile} file */
  #fileChip(file) {
    const bytes = size(new Blob([file.text]).size);
    const element = chip(file.name, bytes, () => this.#keep(without(this.attached, file), this.lost));
    const facts = element.querySelector(".facts");
    countTokens(file).then((tokens) => tokens !== null && facts && fill(facts, `${bytes}, ${count(tokens)} tokens`));
    return element;
  }
}

/** @param {string} name @param {string} facts @param {() => void} remove @param {string} [kind] */
function chip(name, facts, remove, kind) {
  const parts = [icon("clip"), el("span", { class: "name" }, name), el("span", { class: "facts" }, facts)];
  return el("li", { class: kind }, ...parts, iconButton(icon("close"), `Remove ${name}`, remove));
}

/** @template T @param {T[]} all @param {T} one */
function without(all, one) {
  return all.filter((other) => other !== one);
}

/** @param {TextFile} file @returns {Promise<number | null>} null if the server cannot count now */
async function countTokens(file) {
  try {
    return (await call("POST", "count", { prompt: fenced(file) })).tokens;
  } catch {
    return null;
  }
}
