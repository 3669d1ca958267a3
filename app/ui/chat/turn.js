// Follows a turn on the server from its request to its end, also when the connection breaks or the page is reloaded.

import { ApiError, call, newConversationId, stream } from "../core/api.js";
import { changed } from "../core/state.js";
import { storeTurns, turns } from "./followed.js";

/** @import { ServerEvent } from "../core/api.js" */
/** @import { ChatResponse, LoadProgress, MessagePart, StartEvent, ToolCallEvent } from "../wire.d.ts" */

/**
 * What a turn adds to a conversation. `keptUntil` is the last message that stays in the branch, null for none, and
 * `prefix` the parts of a reply that is continued.
 * @typedef {object} Plan
 * @property {string | null} conversationId
 * @property {string | null} question @property {string | null} keptUntil @property {MessagePart[]} prefix
 * @property {boolean} [isOthers] whether another client has begun it, so that the question may be cut
 */

const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 4000;

export class Turn {
  /** @param {Plan} plan */
  constructor(plan) {
    this.plan = plan;
    /** @type {MessagePart[]} */
    this.parts = plan.prefix.map((part) => ({ ...part }));
    /** @type {StartEvent | null} */
    this.start = null;
    /** @type {ChatResponse | null} */
    this.done = null;
    /** @type {ApiError | null} */
    this.error = null;
    /** @type {LoadProgress | null} */
    this.progress = null;
    this.session = plan.conversationId ?? newConversationId(); // leads a load balancer to the server of the turn
    this.messageId = ""; // of the reply, and so of the turn
    this.isWaiting = false; // for the server to come back
    this.isGivenBack = !plan.isOthers; // whether the question returns to its field if it is not answered
    /** @type {Set<(event: ServerEvent | null) => void>} */
    this.listeners = new Set();
    this.lastEvent = 0;
    this.stopping = new AbortController();
  }

  get conversationId() {
    return this.start?.conversation_id ?? this.plan.conversationId;
  }

  get hasEnded() {
    return this.done !== null || this.error !== null;
  }

  /** @param {string} path @param {object} body @returns {Promise<void>} resolves at the end, also of a failure */
  async run(path, body) {
    await this.#live(() => this.#read(stream("POST", path, body, this.stopping.signal, this.session)));
  }

  /** Goes on with a turn of which only its id is known. @param {string} messageId @returns {Promise<void>} */
  async resume(messageId) {
    this.messageId = messageId;
    await this.#live(() => this.#read(this.#rest()));
  }

  /** Stops the turn. Its text so far is kept. */
  async stop() {
    if (this.messageId === "") this.stopping.abort(); // it has not begun
    else await call("DELETE", `chat/turns/${this.messageId}`, undefined, undefined, this.session);
  }

  /** @param {() => Promise<void>} read */
  async #live(read) {
    turns.add(this);
    storeTurns();
    changed("turns");
    try {
      for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
        const before = this.lastEvent;
        await this.#attempt(read);
        if (this.hasEnded) return;
        if (this.lastEvent > before) pause = FIRST_PAUSE_MS;
        this.#tell(null);
        await new Promise((resolve) => setTimeout(resolve, pause));
        read = () => this.#read(this.#rest());
      }
    } finally {
      turns.delete(this);
      storeTurns();
      this.#tell(null);
      changed("turns");
      changed("conversations");
    }
  }

  /** @param {() => Promise<void>} read */
  async #attempt(read) {
    try {
      await read();
    } catch (error) {
      this.isWaiting = error instanceof ApiError && error.status === 0 && this.messageId !== "";
      if (!this.isWaiting && !this.hasEnded) this.error = toApiError(error);
    }
  }

  #rest() {
    const path = `chat/turns/${this.messageId}/events?after=${this.lastEvent}`;
    return stream("GET", path, undefined, this.stopping.signal, this.session);
  }

  /** @param {AsyncGenerator<ServerEvent, void, void>} events */
  async #read(events) {
    for await (const event of events) {
      this.isWaiting = false;
      this.lastEvent = event.id ?? this.lastEvent;
      this.#take(event);
      this.#tell(event);
    }
  }

  /** @param {ServerEvent} event */
  #take({ name, data }) {
    if (name === "progress") this.progress = data;
    else if (name === "start") this.#begin(data);
    else if (name === "delta") this.#add("text", data.text);
    else if (name === "thinking") this.#add("thinking", data.text);
    else if (name === "tool_call") this.#addCall(data);
    else if (name === "done") this.done = data;
    else if (name === "error") this.error = new ApiError(500, data.error);
  }

  /** @param {StartEvent} start */
  #begin(start) {
    this.start = start;
    this.progress = null;
    this.messageId = start.message_id ?? "";
    storeTurns();
    changed("turns");
  }

  /** @param {"text" | "thinking"} type @param {string} text */
  #add(type, text) {
    const last = this.parts.at(-1);
    if (last?.type === type) last.text += text;
    else this.parts.push({ type, text });
  }

  /** @param {ToolCallEvent} event */
  #addCall(event) {
    const last = this.parts.at(-1);
    if (last?.type === "tool_call" && last.id === event.id) last.arguments += event.arguments;
    else this.parts.push({ type: "tool_call", id: event.id, name: event.name, arguments: event.arguments });
  }

  /** @param {ServerEvent | null} event */
  #tell(event) {
    for (const listener of this.listeners) listener(event);
  }
}

/** @param {unknown} error @returns {ApiError} */
function toApiError(error) {
  if (error instanceof ApiError) return error;
  if (error instanceof DOMException) return new ApiError(0, { code: "turn_stopped", message: "Stopped." });
  throw error;
}
