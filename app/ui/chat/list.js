// Shows the messages of a branch, and the turn that runs at its end. Messages that stay keep their elements.

import { byId, el, fill } from "../core/dom.js";
import { MessageView } from "./message.js";
import { progressText } from "./reply.js";

/** @import { ServerEvent } from "../core/api.js" */
/** @import { ConversationMessage } from "../wire.d.ts" */
/** @import { Actions } from "./message.js" */
/** @import { Turn } from "./turn.js" */

const DRAWN_AT_ONCE = 20; // messages at the end of a conversation; those above are drawn when they come near
const GROUP = 20; // messages
const FRAME_SHARE_MS = 5; // for drawing them
const QUESTION = "question of the turn";
const REPLY = "reply of the turn";

export class MessageList {
  /** @param {Actions} actions */
  constructor(actions) {
    this.actions = actions;
    this.element = byId("messages", HTMLDivElement);
    /** @type {Map<string, MessageView>} by the message's id */
    this.views = new Map();
    /** @type {Turn | null} */
    this.turn = null;
    this.listener = (/** @type {ServerEvent | null} */ event) => this.#follow(event);
    /** @type {MessageView[]} those that have come near and are not drawn yet */
    this.near = [];
    const near = { root: byId("scroller", HTMLDivElement), rootMargin: "1500px" };
    this.observer = new IntersectionObserver((entries) => this.#drawNear(entries), near);
    window.addEventListener("beforeprint", () => this.#drawAll());
  }

  /** Shows a branch, up to where the turn begins if there is one. @param {ConversationMessage[]} branch @param {Turn | null} turn */
  show(branch, turn) {
    const refocus = this.#focus();
    this.#attach(turn);
    const kept = turn === null ? branch : before(branch, turn);
    const views = new Map();
    for (const [index, message] of kept.entries()) {
      const isLast = index === kept.length - 1 && turn === null;
      views.set(message.id, this.#viewOf(message, isLast, index >= kept.length - DRAWN_AT_ONCE));
    }
    for (const [id, view] of turn === null ? [] : this.#viewsOfTurn(turn)) views.set(id, view);
    this.views = views;
    this.#placeGroups([...views.values()]);
    this.element.setAttribute("aria-busy", String(turn !== null));
    refocus();
  }

  /** Returns a function that gives the focus back to a button of a message, or of the version that has taken its place. */
  #focus() {
    const focused = document.activeElement;
    const place = [...this.views.values()].findIndex((view) => view.element.contains(focused));
    const name = focused?.getAttribute("aria-label");
    return () => {
      if (place < 0 || focused?.isConnected) return;
      const buttons = [...([...this.views.values()][place]?.element.querySelectorAll("button") ?? [])].filter((button) => !button.disabled);
      const [first] = buttons;
      (buttons.find((button) => button.getAttribute("aria-label") === name) ?? first)?.focus();
    };
  }

  /** Opens the field for editing the last question. */
  editLast() {
    [...this.views.values()].findLast((view) => view.role === "user" && view.message !== null)?.edit();
  }

  /** @param {Turn | null} turn */
  #attach(turn) {
    if (this.turn === turn) return;
    this.turn?.listeners.delete(this.listener);
    this.turn = turn;
    turn?.listeners.add(this.listener);
  }

  /** @param {ConversationMessage} message @param {boolean} isLast @param {boolean} isDrawn */
  #viewOf(message, isLast, isDrawn) {
    const view = this.views.get(message.id) ?? new MessageView(message.role, this.actions);
    view.update(message, { isLast, isDrawn });
    return view;
  }

  /** @param {Turn} turn @returns {[string, MessageView][]} */
  #viewsOfTurn(turn) {
    const { question } = turn.plan;
    /** @type {[string, MessageView][]} */
    const views = [];
    if (question !== null) {
      const id = turn.start?.parent_id ?? QUESTION;
      const view = this.views.get(id) ?? this.views.get(QUESTION) ?? this.#viewOfTurn("user");
      if (view.isOfTurn) view.showQuestion(question);
      views.push([id, view]);
    }
    const id = turn.messageId || REPLY;
    const known = this.views.get(id) ?? this.views.get(REPLY);
    const reply = known ?? this.#viewOfTurn("assistant");
    if (known === undefined) {
      reply.body?.show(turn.parts, false);
      this.#showWait(turn, reply);
    }
    views.push([id, reply]);
    return views;
  }

  /** @param {"user" | "assistant"} role */
  #viewOfTurn(role) {
    const view = new MessageView(role, this.actions);
    view.isOfTurn = true;
    return view;
  }

  /** @param {Turn} turn @param {MessageView} view */
  #showWait(turn, view) {
    if (turn.error !== null) view.body?.wait(null);
    else if (turn.isWaiting) view.body?.wait("The connection broke. Trying to pick the answer up…");
    else if (turn.progress !== null && turn.start === null) view.body?.wait(progressText(turn.progress));
    else if (turn.parts.length === 0) view.body?.wait("Reading…");
  }

  /** @param {ServerEvent | null} event */
  #follow(event) {
    const turn = this.turn;
    if (turn === null) return;
    const view = this.views.get(turn.messageId) ?? this.views.get(REPLY);
    if (view === undefined) return;
    if (event?.name === "delta") view.body?.add("text", event.data.text);
    else if (event?.name === "thinking") view.body?.add("thinking", event.data.text);
    else if (event?.name === "tool_call") view.body?.addCall(event.data.id, event.data.name, event.data.arguments);
    else if (event?.name === "start") this.#begin(turn, view);
    else this.#showWait(turn, view);
    if (turn.hasEnded) view.body?.finish();
  }

  /** Names the views of the turn by the ids that are known now. @param {Turn} turn @param {MessageView} view */
  #begin(turn, view) {
    this.views.delete(REPLY);
    this.views.set(turn.messageId, view);
    const question = this.views.get(QUESTION);
    if (question !== undefined && turn.start?.parent_id) {
      this.views.delete(QUESTION);
      this.views.set(turn.start.parent_id, question);
    }
    this.#showWait(turn, view);
    const { omitted_messages: omitted, model_name } = turn.start ?? { omitted_messages: 0, model_name: "" };
    const note = omitted > 0 && ` · ${omitted} older message${omitted === 1 ? "" : "s"} did not fit into the context`;
    fill(view.footer, el("span", { class: "facts" }, model_name, note));
  }

  /** Puts the messages into groups, which the browser lays out only when they are near. @param {MessageView[]} views */
  #placeGroups(views) {
    const number = Math.ceil(views.length / GROUP);
    while (this.element.children.length > number) this.element.lastElementChild?.remove();
    for (let index = 0; index < number; index += 1) {
      const group = this.element.children[index] ?? this.element.appendChild(el("ol", { class: "group" }));
      const inside = views.slice(index * GROUP, (index + 1) * GROUP);
      place(group, inside.map((view) => view.element));
      if (inside.some((view) => !view.isDrawn)) this.observer.observe(group);
    }
  }

  /** @param {IntersectionObserverEntry[]} entries */
  #drawNear(entries) {
    const views = [...this.views.values()];
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      this.observer.unobserve(target);
      if (this.near.length === 0) requestAnimationFrame(() => this.#drawSome());
      this.near.push(...views.filter((view) => !view.isDrawn && view.element.parentElement === target));
    }
  }

  #drawAll() {
    for (const view of this.views.values()) if (!view.isDrawn && !view.isOfTurn) view.draw();
  }

  /** Draws messages that have come near, as many as fit into a frame. */
  #drawSome() {
    const end = performance.now() + FRAME_SHARE_MS;
    while (this.near.length > 0 && performance.now() < end) {
      this.near.pop()?.draw(); // the last of a group first: it is nearest when one scrolls up
    }
    if (this.near.length > 0) requestAnimationFrame(() => this.#drawSome());
  }
}

/** Puts elements in order, and moves only those that are not in their place. @param {Element} list @param {Element[]} elements */
function place(list, elements) {
  const wanted = new Set(elements);
  for (const child of [...list.children]) if (!wanted.has(child)) child.remove();
  for (const [index, element] of elements.entries()) {
    const there = list.children[index];
    if (there !== element) list.insertBefore(element, there ?? null);
  }
}

/** @param {ConversationMessage[]} branch @param {Turn} turn */
function before(branch, turn) {
  const end = branch.findIndex((message) => message.id === turn.plan.keptUntil);
  return branch.slice(0, end + 1);
}
