// Shows one message with its versions, its actions, and the facts about a reply.

import { copyButton } from "../core/clipboard.js";
import { el, fill, iconButton } from "../core/dom.js";
import { count, moment, shortMoment } from "../core/format.js";
import { icon } from "../core/icons.js";
import { attachmentsOf } from "./attachments.js";
import { ReplyBody } from "./reply.js";

/** @import { ConversationMessage } from "../wire.d.ts" */

/**
 * What the person can do with a message.
 * @typedef {object} Actions
 * @property {(id: string) => void} regenerate
 * @property {(id: string, text: string) => void} edit
 * @property {(id: string) => void} select
 * @property {() => void} continueReply
 * @property {(replyIds: string[]) => void} compare
 */

const SPEAKERS = { user: "You", assistant: "Answer", tool: "Result of a tool", system: "Instructions" };

export class MessageView {
  /** @param {ConversationMessage["role"]} role @param {Actions} actions */
  constructor(role, actions) {
    this.role = role;
    this.actions = actions;
    this.signature = "";
    this.isDrawn = false;
    this.isOfTurn = false; // whether it was drawn piece by piece, before the message was stored
    this.isLast = false;
    /** @type {ConversationMessage | null} */
    this.message = null;
    this.body = role === "user" ? null : new ReplyBody();
    this.question = el("div", { class: "question", dir: "auto" });
    this.footer = el("footer", { class: "footer" });
    const heading = el("h2", { class: "visually-hidden" }, SPEAKERS[role]);
    this.element = el("li", { class: `message ${role}` }, heading, this.body?.element ?? this.question, this.footer);
  }

  /** Shows a stored message; only its bare text if it is not to be drawn yet.
   * @param {ConversationMessage} message @param {{ isLast: boolean, isDrawn: boolean }} how */
  update(message, { isLast, isDrawn }) {
    const signature = [message.id, message.siblings.length, message.position, message.finish_reason, isLast].join();
    if (signature === this.signature) return;
    const isSame = this.message?.id === message.id && this.message.finish_reason === message.finish_reason;
    Object.assign(this, { signature, message, isLast });
    if ((isSame && this.isDrawn) || this.isOfTurn) this.#keep(message);
    else if (isDrawn) this.draw();
    else this.#showBare(message);
  }

  /** @param {ConversationMessage} message */
  #showBare(message) {
    this.isDrawn = false;
    const place = this.body?.element ?? this.question;
    place.replaceChildren(el("div", { class: "undrawn", dir: "auto" }, message.content));
  }

  /** Draws only what has changed around the text. @param {ConversationMessage} message */
  #keep(message) {
    if (this.isOfTurn) this.body?.finish();
    this.isOfTurn = false;
    this.isDrawn = true;
    this.#fillFooter(message);
  }

  /** Draws the whole message. */
  draw() {
    const message = this.message;
    if (message === null) return;
    this.isDrawn = true;
    if (this.body === null) this.showQuestion(message.content);
    else this.body.show(message.parts, true);
    this.#fillFooter(message);
  }

  /** @param {ConversationMessage} message */
  #fillFooter(message) {
    fill(this.footer, ...(this.role === "user" ? this.#questionFooter(message) : this.#replyFooter(message)));
  }

  /** @param {string} text */
  showQuestion(text) {
    const { words, files } = attachmentsOf(text);
    const folds = files.map((file) =>
      el("details", { class: "fold file" }, el("summary", {}, icon("clip"), el("span", {}, file.name), icon("down")), el("pre", { tabindex: "0" }, file.text)),
    );
    fill(this.question, words && el("div", { class: "words" }, words), ...folds);
  }

  /** @param {ConversationMessage} message */
  #questionFooter(message) {
    return [
      this.#versions(message),
      copyButton(() => message.content, "Copy question"),
      iconButton(icon("edit"), "Edit question", () => this.edit()),
    ];
  }

  /** @param {ConversationMessage} message */
  #replyFooter(message) {
    if (this.role !== "assistant") return [];
    const isCut = message.finish_reason === "length" || message.finish_reason === "interrupted";
    const { compare, continueReply, regenerate } = this.actions;
    return [
      this.#versions(message),
      copyButton(() => message.content, "Copy answer"),
      iconButton(icon("retry"), "Answer again", () => regenerate(message.id)),
      message.siblings.length > 1 && iconButton(icon("columns"), "Compare versions", () => compare(message.siblings)),
      this.isLast && isAdvice(message) && el("button", { type: "button", class: "quiet", popovertarget: "models" }, "Choose another model"),
      this.isLast && isCut && el("button", { type: "button", class: "quiet", onclick: continueReply }, icon("forward"), "Continue"),
      el("span", { class: "facts" }, factsOf(message), " · ", timeOf(message)),
    ];
  }

  /** @param {ConversationMessage} message */
  #versions({ siblings, position }) {
    if (siblings.length < 2) return null;
    const go = (/** @type {number} */ place) => this.actions.select(siblings[place - 1] ?? "");
    return el(
      "span",
      { class: "versions", role: "group", "aria-label": "Versions" },
      iconButton(icon("left"), "Previous version", () => go(position - 1), { disabled: position === 1 }),
      el("span", { class: "place" }, `${position}/${siblings.length}`),
      iconButton(icon("right"), "Next version", () => go(position + 1), { disabled: position === siblings.length }),
    );
  }

  /** Replaces the question by a field with its text. */
  edit() {
    const message = this.message;
    if (message === null || this.question.querySelector("textarea")) return;
    const field = el("textarea", { class: "edit-field", dir: "auto", "aria-label": "Changed question" });
    const before = document.activeElement;
    const leave = () => {
      this.showQuestion(message.content);
      this.footer.hidden = false;
      if (before instanceof HTMLElement) before.focus();
    };
    const save = () => {
      leave();
      if (field.value.trim() && field.value !== message.content) this.actions.edit(message.id, field.value);
    };
    field.value = message.content;
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) save();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    const buttons = [
      el("button", { type: "button", class: "quiet", onclick: leave }, "Cancel"),
      el("button", { type: "button", class: "primary", onclick: save }, "Ask"),
    ];
    fill(this.question, field, el("div", { class: "buttons" }, ...buttons));
    this.footer.hidden = true;
    field.style.height = `${field.scrollHeight + 2}px`;
    field.focus();
  }
}

/** @param {ConversationMessage} message */
function timeOf({ timestamp }) {
  return el("time", { datetime: timestamp, title: moment(timestamp) }, shortMoment(timestamp, new Date()));
}

/** Whether the built-in model recommends commands of the terminal client. @param {ConversationMessage} message */
function isAdvice({ model_name, content }) {
  return model_name === "builtin" && /\/(switch|models)\b/.test(content);
}

/** @param {Pick<ConversationMessage, "model_name" | "usage" | "timings" | "finish_reason">} message @returns {string} */
export function factsOf({ model_name, usage, timings, finish_reason }) {
  const speed = timings?.tokens_per_second;
  const end = { length: "cut off", interrupted: "stopped" }[finish_reason ?? ""];
  const tokens = usage && `${count(usage.completion_tokens)} token${usage.completion_tokens === 1 ? "" : "s"}`;
  return [model_name, tokens, speed && `${speed.toFixed(speed < 10 ? 1 : 0)} tokens/s`, end].filter(Boolean).join(" · ");
}
