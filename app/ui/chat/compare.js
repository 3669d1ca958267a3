// Shows versions of an answer side by side, and asks two or three models the same question.
// All versions belong to one conversation, in which one turn runs at a time, so the models answer one after the other.

import { call } from "../core/api.js";
import { byId, el, fill } from "../core/dom.js";
import { icon } from "../core/icons.js";
import { state } from "../core/state.js";
import { requestFields } from "../panels/settings.js";
import { sayError } from "../panels/toast.js";
import { factsOf } from "./message.js";
import { progressText, ReplyBody } from "./reply.js";
import { Turn } from "./turn.js";

/** @import { ServerEvent } from "../core/api.js" */
/** @import { ConversationMessage, ConversationResponse } from "../wire.d.ts" */

const MOST = 3;
const LONGEST_TITLE = 200; // characters

export class Compare {
  /** @param {{ openId: () => string | null, head: () => string | null, open: (id: string | null) => void }} page */
  constructor(page) {
    this.page = page;
    this.dialog = byId("compare", HTMLDialogElement);
    this.columns = byId("columns", HTMLDivElement);
    this.question = byId("compare-question", HTMLTextAreaElement);
    this.choices = byId("compare-models", HTMLFieldSetElement);
    this.form = byId("compare-form", HTMLFormElement);
    this.title = byId("compare-title", HTMLHeadingElement);
    /** @type {Turn | null} */
    this.turn = null;
    /** @type {string | null} the conversation of the shown versions */
    this.id = null;
    this.isOver = true;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.isOver) this.#ask();
    });
    this.question.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.form.requestSubmit();
    });
    this.choices.addEventListener("change", () => this.#check());
    this.dialog.addEventListener("close", () => this.#leave());
  }

  /** Lets the person choose models and ask them. */
  ask() {
    this.form.hidden = false;
    fill(this.title, "Compare models");
    this.columns.replaceChildren();
    const ready = state.models.filter((model) => model.is_on_disk || model.status === "loaded");
    const boxes = ready.map((model, index) =>
      el("label", {}, el("input", { type: "checkbox", name: "model", value: model.name, checked: index < 2 }), model.display_name),
    );
    fill(this.choices, el("legend", {}, "Two or three models"), ...boxes);
    this.#check();
    this.dialog.showModal();
    this.question.focus();
  }

  /** Lets the browser refuse the form unless two or three models are chosen. */
  #check() {
    const number = this.#chosen().length;
    const problem = number < 2 || number > MOST ? "Choose two or three models." : "";
    this.choices.querySelector("input")?.setCustomValidity(problem);
  }

  /** @returns {string[]} the names of the chosen models */
  #chosen() {
    return [...this.choices.querySelectorAll("input")].filter((box) => box.checked).map((box) => box.value);
  }

  /** Shows versions of one reply. @param {string} conversationId @param {string[]} replyIds */
  async show(conversationId, replyIds) {
    try {
      /** @type {ConversationResponse} */
      const tree = await call("GET", `chat/conversation/${encodeURIComponent(conversationId)}?tree=true`);
      const replies = tree.messages.filter((message) => replyIds.includes(message.id));
      const question = tree.messages.find((message) => message.id === replies[0]?.parent_id);
      fill(this.title, question?.content.slice(0, LONGEST_TITLE) ?? "Versions");
      this.id = conversationId;
      this.form.hidden = true;
      fill(this.columns, ...replies.map((reply) => this.#stored(reply)));
      this.dialog.showModal();
    } catch (error) {
      sayError(error);
    }
  }

  /** @param {ConversationMessage} reply */
  #stored(reply) {
    const body = new ReplyBody();
    body.show(reply.parts, true);
    return column(reply.model_name ?? "", body, el("p", { class: "facts" }, factsOf(reply)), this.#use(reply.id));
  }

  /** @param {string} replyId */
  #use(replyId) {
    const use = async () => {
      await call("POST", `chat/conversation/${encodeURIComponent(this.id ?? "")}/select`, { message_id: replyId }).catch(sayError);
      this.dialog.close();
    };
    return el("button", { type: "button", class: "quiet", onclick: use }, "Go on with this one");
  }

  async #ask() {
    const names = this.#chosen();
    const message = this.question.value.trim();
    if (message === "") return;
    this.isOver = false;
    this.form.hidden = true;
    this.question.value = "";
    fill(this.title, message.slice(0, LONGEST_TITLE));
    this.id = this.page.openId();
    const places = names.map((name) => ({ name, body: new ReplyBody(), end: el("div", { class: "end" }) }));
    fill(this.columns, ...places.map(({ name, body, end }) => column(name, body, end)));
    for (const { body } of places) body.wait("Waiting for its turn…");
    const keptUntil = this.page.head();
    /** @type {Turn | null} */
    let first = null; // that was answered
    for (const { name, body, end } of places) {
      if (this.isOver) break;
      const plan = first === null ? { question: message, keptUntil } : { question: null, keptUntil: first.start?.parent_id ?? null };
      const turn = new Turn({ conversationId: this.id, prefix: [], ...plan });
      await this.#answer(turn, name, first?.messageId ?? null, body, end);
      if (turn.done !== null) first ??= turn;
    }
    if (first === null) this.question.value = message; // for another try
    this.isOver = true;
  }

  /**
   * @param {Turn} turn that has not begun @param {string} name of the model @param {string | null} first the reply of the first model
   * @param {ReplyBody} body @param {HTMLElement} end
   */
  async #answer(turn, name, first, body, end) {
    const message = turn.plan.question;
    const fields = { ...requestFields(), model_name: name, stream: true, background: true };
    turn.isGivenBack = false; // the dialog shows its error
    this.turn = turn;
    body.wait("Reading…");
    fill(end, el("button", { type: "button", class: "quiet", onclick: () => turn.stop().catch(sayError) }, icon("stop"), "Stop"));
    turn.listeners.add((event) => follow(turn, body, event));
    const place = this.id === null ? {} : { conversation_id: this.id, expected_head_id: turn.plan.keptUntil };
    if (first !== null) await turn.run(`chat/conversation/${this.id}/regenerate`, { ...fields, message_id: first });
    else await turn.run("chat", { ...fields, message, ...place });
    body.finish();
    const hadFocus = end.contains(document.activeElement);
    this.turn = null;
    if (turn.done !== null) this.id = turn.conversationId; // a first turn that fails leaves no conversation
    if (turn.done !== null) fill(end, el("p", { class: "facts" }, factsOf(turn.done)), this.#use(turn.messageId));
    if (turn.error !== null) fill(end, el("p", { class: "problem" }, turn.error.message));
    if (hadFocus) end.querySelector("button")?.focus();
  }

  #leave() {
    this.isOver = true;
    this.turn?.stop().catch(sayError);
    this.columns.replaceChildren();
    if (this.id !== null) this.page.open(this.id);
    this.id = null;
  }
}

/** @param {Turn} turn @param {ReplyBody} body @param {ServerEvent | null} event */
function follow(turn, body, event) {
  if (event?.name === "delta") body.add("text", event.data.text);
  else if (event?.name === "thinking") body.add("thinking", event.data.text);
  else if (event?.name === "progress" && turn.progress !== null) body.wait(progressText(turn.progress));
}

/** @param {string} name @param {ReplyBody} body @param {Node[]} rest */
function column(name, body, ...rest) {
  return el("section", { class: "column", "aria-label": name }, el("h3", {}, name), body.element, ...rest);
}
