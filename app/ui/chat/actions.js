// What a person can do in the open conversation. Each action is one request; those that want an answer begin a turn.

import { call } from "../core/api.js";
import { changed } from "../core/state.js";
import { requestFields } from "../panels/settings.js";
import { sayError } from "../panels/toast.js";
import { Turn } from "./turn.js";

/** @import { MessagePart } from "../wire.d.ts" */
/** @import { Chat } from "./chat.js" */

/** @typedef {{ keptUntil: string | null, question?: string | null, prefix?: MessagePart[] }} Beginning */

export class ChatActions {
  /** @param {Chat} chat */
  constructor(chat) {
    this.chat = chat;
  }

  /** @param {string} text */
  send(text) {
    const { id, conversation, newPrompt } = this.chat;
    const body = {
      message: text,
      ...(id === null ? {} : { conversation_id: id }),
      ...(conversation === null ? {} : { expected_head_id: conversation.head_id }), // another client may have asked something
      ...(newPrompt === null ? {} : { system_prompt: newPrompt }),
    };
    this.#begin("chat", body, { keptUntil: conversation?.head_id ?? null, question: text });
  }

  /** @param {string} messageId of a reply */
  regenerate(messageId) {
    const reply = this.chat.branch.find((message) => message.id === messageId);
    this.#begin(this.#path("/regenerate"), { message_id: messageId }, { keptUntil: reply?.parent_id ?? null });
  }

  /** @param {string} messageId of a question @param {string} text */
  edit(messageId, text) {
    const old = this.chat.branch.find((message) => message.id === messageId);
    const body = { message_id: messageId, message: text };
    this.#begin(this.#path("/edit"), body, { keptUntil: old?.parent_id ?? null, question: text });
  }

  continueReply() {
    const { branch, conversation } = this.chat;
    const last = branch.at(-1);
    if (last === undefined || conversation === null) return;
    const body = { expected_head_id: conversation.head_id }; // another client may have asked something
    this.#begin(this.#path("/continue"), body, { keptUntil: last.parent_id, prefix: last.parts });
  }

  /** Makes the branch of a message the current one. @param {string} messageId */
  async select(messageId) {
    await this.#change("POST", "/select", { message_id: messageId });
  }

  /** Lets the model answer in this conversation from now on, if it has a model of its own. @param {string} name */
  async useModel(name) {
    const own = this.chat.conversation?.model_name;
    if (own && own !== name) await this.#change("PATCH", "", { model_name: name });
  }

  async stop() {
    await this.chat.turn?.stop().catch(sayError);
  }

  /** Starts a conversation on the server from what the page shows of a lost one. */
  async restore() {
    const { branch, conversation, page } = this.chat;
    const messages = branch
      .filter(({ role }) => role === "user" || role === "assistant")
      .map(({ role, content, timestamp, model_name, finish_reason }) => ({ role, content, timestamp, model_name, finish_reason }));
    const { title = null, system_prompt = "" } = conversation ?? {};
    try {
      const started = await call("POST", "chat/new", { title, system_prompt, messages });
      changed("conversations");
      page.open(started.conversation_id);
    } catch (error) {
      sayError(error);
    }
  }

  /** @param {string} path @param {object} body @param {Beginning} beginning */
  #begin(path, body, { keptUntil, question = null, prefix = [] }) {
    if (this.chat.turn !== null) return;
    const turn = new Turn({ conversationId: this.chat.id, question, keptUntil, prefix });
    turn.run(path, { ...requestFields(), ...body, stream: true, background: true });
    this.chat.follow(turn);
  }

  /** @param {string} method @param {string} path @param {object} body */
  async #change(method, path, body) {
    try {
      await call(method, this.#path(path), body);
      await this.chat.refresh();
    } catch (error) {
      sayError(error);
    }
  }

  /** @param {string} path below the conversation's own */
  #path(path) {
    return `chat/conversation/${encodeURIComponent(this.chat.id ?? "")}${path}`;
  }
}
