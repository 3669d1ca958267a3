// The conversation that is open: reads it from the server, and shows it with the turn that runs in it.

import { ApiError, call } from "../core/api.js";
import { byId, el, fill } from "../core/dom.js";
import { changed, onChange, state } from "../core/state.js";
import { toast } from "../panels/toast.js";
import { ChatActions } from "./actions.js";
import { Composer } from "./composer.js";
import { turnOf, turns } from "./followed.js";
import { greeting } from "./greeting.js";
import { MessageList } from "./list.js";
import { Scrolling } from "./scrolling.js";
import { Turn } from "./turn.js";

/** @import { ConversationMessage, ConversationResponse } from "../wire.d.ts" */

const HAS_KEYBOARD = matchMedia("(pointer: fine)"); // a touch screen would cover half of the page with its own

const CHANGED = "This conversation has changed elsewhere.";
const GIVEN_BACK = `${CHANGED} Your message is back in its field: read what is new, then send it.`;
const NOT_CONTINUED = `${CHANGED} Its last answer is another one now, and was not continued.`;

const chooseModel = () => el("button", { type: "button", class: "quiet", popovertarget: "models" }, "Choose a model");

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
    this.followed = new Set(turns); // those whose end this has not seen yet
    /** @type {string | null} the system prompt that the next message sets; null: it stays */
    this.newPrompt = null;
    this.scrolling = new Scrolling();
    this.failure = byId("failure", HTMLDivElement);
    this.isUnreachable = false; // whether the failure is that the server did not answer
    this.announcer = byId("announcer", HTMLParagraphElement);
    const actions = (this.actions = new ChatActions(this));
    this.list = new MessageList({
      regenerate: (id) => actions.regenerate(id),
      edit: (id, text) => actions.edit(id, text),
      select: (id) => actions.select(id),
      continueReply: () => actions.continueReply(),
      compare: (ids) => page.compare(ids),
    });
    this.composer = new Composer({
      send: (text) => actions.send(text),
      stop: () => actions.stop(),
      editLast: () => this.list.editLast(),
    });
    onChange("models", () => this.#showGreeting());
    onChange("turns", () => this.#turnsChanged());
    onChange("running", () => this.#join());
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
    this.conversation = this.newPrompt = null;
    this.turn = turnOf(id);
    this.#fail(null);
    this.scrolling.isAtEnd = true;
    this.composer.show(id);
    this.draw();
    if (id !== null) await this.#join(true);
    if (HAS_KEYBOARD.matches) this.composer.focus();
  }

  /** Reads the conversation anew. */
  async refresh() {
    const id = this.id;
    if (id === null) return;
    try {
      const conversation = await call("GET", `chat/conversation/${encodeURIComponent(id)}`);
      if (this.id === id) this.conversation = conversation;
    } catch (error) {
      if (this.id === id) this.#explainMissing(/** @type {ApiError} */ (error));
    }
    if (this.id === id) this.draw();
  }

  draw() {
    this.list.show(this.branch, this.turn);
    this.composer.showRunning(this.turn !== null);
    this.#showGreeting();
    changed("conversation");
  }

  /** Shows a turn that has just begun. @param {Turn} turn */
  follow(turn) {
    this.#fail(null);
    this.turn = turn;
    this.draw();
    this.scrolling.toEnd();
    if (HAS_KEYBOARD.matches && document.activeElement === document.body) this.composer.focus(); // its button has gone
  }

  /** The turn that another client has begun in the open conversation. */
  get #elsewhere() {
    const turn = state.running.find((running) => running.conversation_id === this.id);
    return turn === undefined || this.branch.some((message) => message.id === turn.message_id) ? null : turn;
  }

  /** Reads the conversation anew and follows its turn, if another client has begun one. */
  async #join(reads = false) {
    if (reads || (this.turn === null && this.#elsewhere !== null)) await this.refresh();
    const running = this.#elsewhere;
    if (running === null || this.turn !== null) return;
    const continued = this.branch.find((message) => message.id === running.continues);
    const { conversation_id: conversationId, question, parent_id: keptUntil } = running;
    const turn = new Turn({ conversationId, question, keptUntil, prefix: continued?.parts ?? [], isOthers: true });
    turn.resume(running.message_id);
    this.turn = turn;
    this.draw();
  }

  #turnsChanged() {
    const turn = this.turn;
    if (turn !== null && this.id === null && turn.conversationId !== null) this.#named(turn.conversationId);
    const ended = [...this.followed].filter((followed) => !turns.has(followed));
    this.followed = new Set(turns);
    for (const each of ended) {
      if (each === turn) this.#end(each);
      else this.#endElsewhere(each);
    }
  }

  /**
   * Gives the page the address of a new conversation, as soon as it has an id. No event follows, which would come after
   * the end of a turn that fails at once, and hide its error.
   * @param {string} id
   */
  #named(id) {
    this.id = id;
    this.composer.moveTo(id);
    history.pushState(null, "", `#/c/${encodeURIComponent(id)}`);
  }

  /** Goes back to a new conversation after its first turn has failed, because it was not stored. */
  #unname() {
    this.id = null;
    this.composer.moveTo(null);
    history.replaceState(null, "", "#/");
  }

  /** @param {Turn} turn */
  async #end(turn) {
    if (turn.error !== null && this.conversation === null) this.#unname();
    else await this.refresh();
    if (this.turn !== turn) return;
    const { isAtEnd } = this.scrolling;
    this.turn = null;
    this.draw();
    fill(this.announcer, turn.error === null ? "The answer is complete." : "The answer has failed.");
    if (this.conversation?.system_prompt === this.newPrompt) this.newPrompt = null;
    if (turn.error !== null) this.#explain(turn, turn.error);
    if (isAtEnd) this.scrolling.toEnd(); // a question that goes back to its field leaves less room for the messages
  }

  /**
   * Gives the question of a turn that has failed back to its own conversation, while another one is open.
   * @param {Turn} turn
   */
  async #endElsewhere(turn) {
    const { error, conversationId: id, plan } = turn;
    if (error === null || plan.question === null || !turn.isGivenBack) return;
    /** @type {ConversationResponse | ApiError | null} */
    const found = id === null ? null : await call("GET", `chat/conversation/${encodeURIComponent(id)}`).catch((problem) => problem);
    if (found !== null && "messages" in found && isStored(found.messages, turn)) return;
    const home = found instanceof ApiError && found.status === 404 ? null : id; // a first turn that fails leaves no conversation
    this.composer.giveBack(plan.question, home);
    const beginning = plan.question.length > 60 ? `${plan.question.slice(0, 60)}…` : plan.question;
    toast(`“${beginning}” was not answered: ${error.message}`, { name: "Open", run: () => this.page.open(home) });
  }

  /** @param {Turn} turn @param {ApiError} error */
  #explain(turn, error) {
    const { question } = turn.plan;
    if (question !== null && !isStored(this.branch, turn) && turn.isGivenBack) this.composer.giveBack(question, this.id);
    if (error.code !== "turn_stopped") this.#fail(error);
    if (error.code === "head_changed") fill(this.failure, el("strong", {}, question === null ? NOT_CONTINUED : GIVEN_BACK));
  }

  /** @param {ApiError} error */
  #explainMissing(error) {
    if (error.status === 401 || error.status === 0) return; // said elsewhere
    if (error.status !== 404) return this.#fail(error);
    if (this.turn !== null || this.#elsewhere !== null) return; // it is stored with the end of its first turn
    if (this.branch.length > 0) return this.#offerToRestore();
    toast("This conversation does not exist any more.");
    this.page.open(null);
  }

  #offerToRestore() {
    this.failure.hidden = false;
    fill(
      this.failure,
      el("span", {}, "The server does not have this conversation any more. "),
      el("button", { type: "button", class: "quiet", onclick: () => this.actions.restore() }, "Give it back"),
    );
  }

  /** Call this when the server answers again. */
  async reconnect() {
    if (this.isUnreachable) this.#fail(null);
    await this.refresh();
  }

  /** @param {ApiError | null} error */
  #fail(error) {
    this.isUnreachable = error?.status === 0;
    this.failure.hidden = error === null;
    const hint = error?.code === "no_model_chosen" ? chooseModel() : error?.hint && el("span", {}, ` ${error.hint}`);
    fill(this.failure, error && el("strong", {}, error.message), hint || null);
  }

  #showGreeting() {
    const isEmpty = this.branch.length === 0 && this.turn === null;
    greeting(isEmpty && this.id === null, state, (text) => this.actions.send(text));
  }
}

/** Returns whether the question of a turn is one of the messages. @param {ConversationMessage[]} branch @param {Turn} turn */
function isStored(branch, turn) {
  return branch.some((message) => message.id === turn.start?.parent_id);
}
