// Gives conversations titles. While a turn runs, the server takes none, so the new title waits for its end.

import { ApiError, call } from "../core/api.js";
import { changed, onChange } from "../core/state.js";
import { isRunning } from "../chat/followed.js";
import { sayError } from "./toast.js";

/** @import { ConversationSummary } from "../wire.d.ts" */

const RETRY_MS = 2000;

export class Titles {
  /** @param {(id: string) => void} renamed called when the server has the title of a conversation */
  constructor(renamed) {
    this.renamed = renamed;
    /** @type {Map<string, string>} those that the server does not have yet, by conversation */
    this.waiting = new Map();
    onChange("conversations", () => this.#sendAll());
  }

  /** @param {Pick<ConversationSummary, "conversation_id" | "title" | "preview">} summary */
  of({ conversation_id: id, title, preview }) {
    return this.waiting.get(id) ?? title ?? (preview.trim().split("\n\n")[0] || "Empty conversation");
  }

  /** @param {string} id of a conversation @param {string} title */
  async change(id, title) {
    this.waiting.set(id, title);
    if (!isRunning(id)) await this.#send(id, title);
  }

  #sendAll() {
    for (const [id, title] of this.waiting) if (!isRunning(id)) this.#send(id, title);
  }

  /** @param {string} id @param {string} title */
  async #send(id, title) {
    this.waiting.delete(id);
    try {
      await call("PATCH", `chat/conversation/${encodeURIComponent(id)}`, { title });
      this.renamed(id);
      changed("conversations");
    } catch (error) {
      if (error instanceof ApiError && error.code === "conversation_busy") this.#keep(id, title);
      else sayError(error);
    }
  }

  /** Sends a title later, because a turn runs that the page does not know. @param {string} id @param {string} title */
  #keep(id, title) {
    if (!this.waiting.has(id)) this.waiting.set(id, title); // otherwise there is a newer one
    setTimeout(() => this.#sendAll(), RETRY_MS);
  }
}
