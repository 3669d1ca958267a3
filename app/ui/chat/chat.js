// The conversation that is open: reads it from the server, shows it, and begins its turns.

import { ApiError, call } from "../core/api.js";
import { byId, el, fill } from "../core/dom.js";
import { changed, onChange, state } from "../core/state.js";
import { requestFields } from "../panels/settings.js";
import { sayError, toast } from "../panels/toast.js";
import { Composer } from "./composer.js";
import { greeting } from "./greeting.js";
import { MessageList } from "./list.js";
import { Scrolling } from "./scrolling.js";
import { Turn, turnOf } from "./turn.js";

/** @import { SettingsDrawer } from "../panels/settings.js" */
/** @import { ConversationMessage, ConversationResponse, MessagePart } from "../wire.d.ts" */

/** @typedef {{ keptUntil: string | null, question?: string | null, prefix?: MessagePart[] }} Beginning */

export class Chat {
  /** @param {{ open: (id: string | null) => void, compare: (replyIds: string[]) => void }} page */
  constructor(page) {
    this.page = page;
    /** @type {string | null} null: a conversation that has not begun */
    this.id = null;
    /** @type {ConversationResponse | null} */
    this.conversation = null;
    /** @type {Turn | null} */
    this.turn = null;
    /** @type {SettingsDrawer | null} */
    this.drawer = null;
    this.scrolling = new Scrolling();
    this.failure = byId("failure", HTMLDivElement);
    this.list = new MessageList({
      regenerate: (id) => this.regenerate(id),
      edit: (id, text) => this.edit(id, text),
      select: (id) => this.select(id),
      continueReply: () => this.continueReply(),
      compare: (ids) => page.compare(ids),
    });
    this.composer = new Composer({
      send: (text) => this.send(text),
      stop: () => this.stop(),
      editLast: () => this.list.editLast(),
    });
    onChange("models", () => this.#showGreeting());
  }

  /** @returns {ConversationMessage[]} the current branch */
  get branch() {
    return this.conversation?.messages ?? [];
  }

  get title() {
    const title = this.conversation?.title ?? this.branch[0]?.content.split("\n")[0];
    return title ? `${title.slice(0, 80)} · LLM server` : "LLM server";
  }

  /** Opens a conversation, or a new one. @param {string | null} id */
  async open(id) {
    if (id !== null && id === this.id) return this.turn === null ? await this.refresh() : undefined;
    this.id = id;
    this.conversation = null;
    if (this.drawer !== null) this.drawer.newPrompt = null;
    this.turn = turnOf(id);
    this.#fail(null);
    this.scrolling.isAtEnd = true;
    this.draw();
    if (id !== null) await this.refresh();
    this.composer.focus();
  }

  /** Reads the conversation anew. @param {boolean} [restarted] whether the server may have lost it */
  async refresh(restarted = false) {
    const id = this.id;
    if (id === null) return;
    try {
      const conversation = await call("GET", `chat/conversation/${encodeURIComponent(id)}`);
      if (this.id === id) this.conversation = conversation;
    } catch (error) {
      if (this.id === id) this.#explainMissing(/** @type {ApiError} */ (error), restarted);
    }
    if (this.id === id) this.draw();
  }

  draw() {
    this.list.show(this.branch, this.turn);
    this.composer.showRunning(this.turn !== null);
    this.#showGreeting();
    changed("conversation");
  }

  /** @param {string} text */
  async send(text) {
    const prompt = this.drawer?.newPrompt ?? null;
    const body = {
      message: text,
      ...(this.id === null ? {} : { conversation_id: this.id }),
      ...(prompt === null ? {} : { system_prompt: prompt }),
    };
    if (this.drawer !== null) this.drawer.newPrompt = null;
    await this.#run("chat", body, { keptUntil: this.conversation?.head_id ?? null, question: text });
  }

  /** Lets the model answer in this conversation from now on, if it has a model of its own. @param {string} name */
  async useModel(name) {
    if (!this.conversation?.model_name || this.conversation.model_name === name) return;
    try {
      await call("PATCH", this.#path(""), { model_name: name });
      await this.refresh();
    } catch (error) {
      sayError(error);
    }
  }

  /** @param {string} messageId of a reply */
  async regenerate(messageId) {
    const reply = this.branch.find((message) => message.id === messageId);
    await this.#run(this.#path("regenerate"), { message_id: messageId }, { keptUntil: reply?.parent_id ?? null });
  }

  /** @param {string} messageId of a question @param {string} text */
  async edit(messageId, text) {
    const old = this.branch.find((message) => message.id === messageId);
    const body = { message_id: messageId, message: text };
    await this.#run(this.#path("edit"), body, { keptUntil: old?.parent_id ?? null, question: text });
  }

  async continueReply() {
    const last = this.branch.at(-1);
    if (last === undefined) return;
    await this.#run(this.#path("continue"), {}, { keptUntil: last.parent_id, prefix: last.parts });
  }

  /** Makes the branch of a message the current one. @param {string} messageId */
  async select(messageId) {
    try {
      await call("POST", this.#path("select"), { message_id: messageId });
      await this.refresh();
    } catch (error) {
      sayError(error);
    }
  }

  async stop() {
    try {
      await this.turn?.stop();
    } catch (error) {
      sayError(error);
    }
  }

  /** Waits for a turn that ran before the page was reloaded. @param {Turn} turn @param {Promise<void>} ending */
  async adopt(turn, ending) {
    await ending;
    await this.#end(turn);
  }

  /** @param {string} path @param {object} body @param {Beginning} beginning */
  async #run(path, body, { keptUntil, question = null, prefix = [] }) {
    if (this.turn !== null) return;
    this.#fail(null);
    const turn = new Turn({ conversationId: this.id, question, keptUntil, prefix });
    this.scrolling.isAtEnd = true;
    turn.listeners.add(() => this.#named(turn));
    this.turn = turn;
    this.draw();
    await turn.run(path, { ...requestFields(), ...body, stream: true, background: true });
    await this.#end(turn);
  }

  /** Gives the page the address of a new conversation, as soon as it has an id. @param {Turn} turn */
  #named(turn) {
    if (this.turn !== turn || this.id !== null || turn.conversationId === null) return;
    this.id = turn.conversationId;
    this.page.open(this.id);
  }

  /** @param {Turn} turn */
  async #end(turn) {
    changed("conversations");
    if (this.turn !== turn) return;
    if (turn.error === null) await this.refresh();
    this.turn = null;
    this.draw();
    if (turn.error !== null) this.#explain(turn, turn.error);
  }

  /** @param {Turn} turn @param {ApiError} error */
  async #explain(turn, error) {
    await this.refresh();
    const { question } = turn.plan;
    if (question !== null && !this.branch.some((message) => message.id === turn.start?.parent_id)) this.composer.text = question;
    if (error.code !== "turn_stopped") this.#fail(error);
  }

  /** @param {ApiError} error @param {boolean} restarted */
  #explainMissing(error, restarted) {
    if (error.status === 401 || error.status === 0) return; // said elsewhere
    if (error.status !== 404) return this.#fail(error);
    if (this.turn !== null) return; // a conversation is stored with the end of its first turn
    if (restarted && this.branch.length > 0) return this.#offerToRestore(error);
    toast("This conversation does not exist any more.");
    this.page.open(null);
  }

  /** @param {ApiError} error */
  #offerToRestore(error) {
    const restore = () => this.restore().catch(sayError);
    this.#fail(error);
    fill(
      this.failure,
      el("span", {}, "The server was restarted and has lost this conversation. "),
      el("button", { type: "button", class: "quiet", onclick: restore }, "Give it back"),
    );
  }

  /** Starts a conversation on the server from what is shown. */
  async restore() {
    const messages = this.branch
      .filter(({ role }) => role === "user" || role === "assistant")
      .map(({ role, content, timestamp, model_name, finish_reason }) => ({ role, content, timestamp, model_name, finish_reason }));
    const { title = null, system_prompt = "" } = this.conversation ?? {};
    const started = await call("POST", "chat/new", { title, system_prompt, messages });
    changed("conversations");
    this.page.open(started.conversation_id);
  }

  /** @param {ApiError | null} error */
  #fail(error) {
    this.failure.hidden = error === null;
    fill(this.failure, error && el("strong", {}, error.message), error?.hint && el("span", {}, ` ${error.hint}`));
  }

  #showGreeting() {
    const isEmpty = this.branch.length === 0 && this.turn === null;
    greeting(isEmpty && this.id === null, state, (text) => this.send(text));
  }

  /** @param {string} action */
  #path(action) {
    return `chat/conversation/${encodeURIComponent(this.id ?? "")}${action && `/${action}`}`;
  }
}
