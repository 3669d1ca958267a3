// The menu of the page: export, import, compare, keys, delete all, sign out.

import { hasKey } from "../core/api.js";
import { byId, el, fill } from "../core/dom.js";
import { icon } from "../core/icons.js";
import { changed } from "../core/state.js";
import { deleteAll } from "./deletion.js";
import { exportJson, exportMarkdown, importJson } from "./transfer.js";

/** @import { Chat } from "../chat/chat.js" */
/** @import { Compare } from "../chat/compare.js" */

export class Menu {
  /** @param {{ chat: Chat, compare: Compare, open: (id: string | null) => void, signOut: () => void }} page */
  constructor(page) {
    this.page = page;
    this.menu = byId("menu", HTMLDivElement);
    this.picker = byId("import", HTMLInputElement);
    this.menu.addEventListener("beforetoggle", () => this.#draw());
    this.picker.addEventListener("change", () => this.#import());
  }

  #draw() {
    const { chat, compare, signOut } = this.page;
    const { conversation } = chat;
    fill(
      this.menu,
      conversation && this.#item("download", "Export as Markdown", () => exportMarkdown(conversation)),
      conversation && this.#item("download", "Export as JSON", () => exportJson(conversation)),
      this.#item("upload", "Import…", () => this.picker.click()),
      this.#item("columns", "Compare models…", () => compare.ask()),
      this.#item("menu", "Keys", () => byId("keys", HTMLDialogElement).showModal()),
      this.#item("trash", "Delete all conversations…", () => this.#deleteAll()),
      hasKey() && this.#item("leave", "Sign out", signOut),
    );
  }

  /** @param {Parameters<typeof icon>[0]} image @param {string} name @param {() => void} run */
  #item(image, name, run) {
    const onclick = () => {
      this.menu.hidePopover();
      run();
    };
    return el("button", { type: "button", onclick }, icon(image), name);
  }

  async #deleteAll() {
    const { chat, open } = this.page;
    if ((await deleteAll()) && chat.turn === null) open(null);
  }

  async #import() {
    const file = this.picker.files?.[0];
    this.picker.value = "";
    const id = file === undefined ? null : await importJson(file);
    if (id === null) return;
    changed("conversations");
    this.page.open(id);
  }
}
