// Lists the conversations by day, and searches, renames and deletes them.

import { ApiError, call } from "../core/api.js";
import { byId, el, fill, iconButton } from "../core/dom.js";
import { focusOn, refill } from "../core/focus.js";
import { dayGroup } from "../core/format.js";
import { icon } from "../core/icons.js";
import { changed, onChange, state } from "../core/state.js";
import { keepDraft } from "../chat/drafts.js";
import { dropTurn, isRunning } from "../chat/followed.js";
import { confirm } from "./confirm.js";
import { Titles } from "./titles.js";
import { sayError } from "./toast.js";

/** @import { ConversationListResponse, ConversationSummary } from "../wire.d.ts" */

const TYPING_MS = 150;
const PAGE = 50;
const MOST = 200; // that the server lists at once

export class Sidebar {
  /** @param {{ openId: () => string | null, leave: (id: string) => void, renamed: (id: string) => void }} page */
  constructor(page) {
    this.page = page;
    this.titles = new Titles(page.renamed);
    this.list = byId("conversations", HTMLElement);
    this.search = byId("search", HTMLInputElement);
    /** @type {ConversationSummary[]} */
    this.shown = [];
    /** @type {string | null} */
    this.cursor = null;
    this.words = ""; // that were searched for when `shown` was read
    this.asked = 0; // the number of the newest request, whose reply counts
    let typing = 0;
    this.search.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.load(), TYPING_MS);
    });
    this.search.addEventListener("keydown", (event) => this.#key(event));
    onChange("conversations", () => this.load());
    onChange("turns", () => this.draw());
    onChange("running", () => this.draw());
    onChange("conversation", () => this.draw());
  }

  /** Reads the list anew, as far as it is shown. */
  async load() {
    const words = this.search.value.trim();
    await this.#read([], null, words === this.words ? Math.max(PAGE, this.shown.length) : PAGE);
  }

  /**
   * Reads conversations until as many are shown.
   * @param {ConversationSummary[]} before those already shown @param {string | null} cursor @param {number} number
   */
  async #read(before, cursor, number) {
    const words = this.search.value.trim();
    this.asked += 1;
    const asked = this.asked;
    try {
      const shown = [...before];
      do {
        const page = await list(words, cursor, Math.min(MOST, number - shown.length));
        if (asked !== this.asked) return;
        shown.push(...page.conversations);
        cursor = page.next_cursor;
      } while (cursor !== null && shown.length < number);
      Object.assign(this, { shown, cursor, words });
      this.draw();
    } catch {
      // the page says elsewhere that the server does not answer, or asks for a key
    }
  }

  draw() {
    if (this.list.querySelector("input") !== null) return; // somebody is typing a title
    /** @type {Map<string, HTMLElement[]>} */
    const groups = new Map();
    const now = new Date();
    const add = (/** @type {string} */ group, /** @type {HTMLElement} */ item) => groups.set(group, [...(groups.get(group) ?? []), item]);
    for (const summary of [...this.shown, ...this.#unlisted()].sort(newestFirst)) add(dayGroup(summary.updated_at, now), this.#item(summary));
    const parts = [...groups].map(([name, items]) => el("section", {}, el("h2", {}, name), el("ul", {}, ...items)));
    const more = el("button", { type: "button", class: "quiet", onclick: () => this.#read(this.shown, this.cursor, this.shown.length + PAGE) }, "Show more");
    const nothing = el("p", { class: "nothing" }, this.search.value.trim() ? "Nothing found." : "Your conversations will be here.");
    refill(this.list, [...parts, this.cursor !== null && more, parts.length === 0 && nothing], this.search);
  }

  /**
   * The conversations that a turn runs in and that are not listed, because it is their first one or they have not changed
   * for long. Those that are searched for are all listed.
   * @returns {ConversationSummary[]}
   */
  #unlisted() {
    if (this.search.value.trim()) return [];
    const listed = new Set(this.shown.map((summary) => summary.conversation_id));
    const running = state.running.filter((turn) => !listed.has(turn.conversation_id));
    return running.map(({ conversation, question }) => ({ ...conversation, preview: conversation.preview || (question ?? "") }));
  }

  /** @param {ConversationSummary} summary */
  #item(summary) {
    const name = this.titles.of(summary);
    const item = el("li", {});
    const id = summary.conversation_id;
    const rename = iconButton(icon("edit"), `Rename ${name}`, () => this.#rename(item, summary), { "data-key": `rename ${id}` });
    const remove = iconButton(icon("trash"), `Delete ${name}`, () => this.#delete(summary), { "data-key": `delete ${id}` });
    fill(item, this.#link(id, name), el("span", { class: "item-actions" }, rename, remove));
    return item;
  }

  /** @param {string} id @param {string} name */
  #link(id, name) {
    const current = this.page.openId() === id ? "page" : null;
    const label = el("span", { class: "title", dir: "auto" }, name);
    return el("a", { href: `#/c/${encodeURIComponent(id)}`, "data-key": id, "aria-current": current, title: name }, label, isRunning(id) && el("span", { class: "dot", title: "Answering" }));
  }

  /** @param {HTMLElement} item @param {ConversationSummary} summary */
  #rename(item, summary) {
    const field = el("input", { type: "text", "aria-label": "Title", maxlength: 200, dir: "auto" });
    const before = this.titles.of(summary);
    field.value = before;
    let isOver = false;
    const end = async (/** @type {boolean} */ keeps) => {
      if (isOver) return;
      isOver = true;
      const title = field.value.trim();
      field.remove();
      if (keeps && title && title !== before) await this.titles.change(summary.conversation_id, title);
      await this.load();
      this.draw();
      if (document.activeElement === document.body) focusOn(this.list, summary.conversation_id, 0, this.search);
    };
    field.addEventListener("blur", () => end(true));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") end(true);
      else if (event.key === "Escape") end(false);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    fill(item, field);
    field.select();
  }

  /** @param {ConversationSummary} summary */
  async #delete(summary) {
    const id = summary.conversation_id;
    const isSure = await confirm(`Delete “${this.titles.of(summary)}”?`, "All its versions go with it, for good.", "Delete");
    if (!this.list.contains(document.activeElement)) focusOn(this.list, `delete ${id}`, 0, this.search); // the list was drawn anew meanwhile
    if (!isSure) return;
    this.page.leave(id);
    try {
      await dropTurn(id);
      await call("DELETE", `chat/conversation/${encodeURIComponent(id)}`);
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) return sayError(error); // a first turn without a text leaves none
    }
    keepDraft(id, { words: "", files: [] });
    changed("conversations");
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key === "Escape" && this.search.value !== "") {
      this.search.value = "";
      this.load();
      event.stopPropagation();
    } else if (event.key === "Enter" || event.key === "ArrowDown") {
      const first = this.list.querySelector("a");
      if (event.key === "Enter") first?.click();
      else first?.focus();
      event.preventDefault();
    }
  }
}

/** @param {string} words @param {string | null} cursor @param {number} limit @returns {Promise<ConversationListResponse>} */
function list(words, cursor, limit) {
  const query = new URLSearchParams({ limit: String(limit), ...(words && { query: words }), ...(cursor !== null && { cursor }) });
  return call("GET", `chat/conversations?${query}`);
}

/** @param {ConversationSummary} one @param {ConversationSummary} other */
function newestFirst(one, other) {
  return Date.parse(other.updated_at) - Date.parse(one.updated_at);
}
