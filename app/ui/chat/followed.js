// The turns that this page follows, which are kept for a reload, in this tab only.

import { call } from "../core/api.js";
import { state } from "../core/state.js";
import { keepInTab, keptInTab } from "../core/storage.js";
import { forgetDraftsOfReload, storeDrafts } from "./drafts.js";

/** @import { Plan, Turn } from "./turn.js" */

/** @typedef {{ messageId: string, session: string, plan: Plan }} StoredTurn  `messageId` is empty before the first event */

const STORED = "turns";
const BEGINNING = 200; // characters of a question that is too long to be kept

/** @type {Set<Turn>} */
export const turns = new Set();

/** Those of an earlier page of which it saw no event, and whose state on the server is not known yet. @type {StoredTurn[]} */
let unseen = [];

let isLeft = false; // the browser then ends all requests, as if they had failed
window.addEventListener("pagehide", () => {
  isLeft = true;
  storeDrafts(); // here, because some of those failures come right after this listener, and would return their questions
});
window.addEventListener("pageshow", () => {
  isLeft = false;
});
window.addEventListener("beforeunload", (event) => {
  if (!storeDrafts()) event.preventDefault(); // the browser then asks whether to leave
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden" && !isLeft) storeDrafts(); // a phone may end the page without another event
});

export function storeTurns() {
  if (isLeft) return;
  const running = [...turns].filter((turn) => !turn.hasEnded);
  const stored = running.map(({ messageId, session, plan, conversationId }) => ({ messageId, session, plan: { ...plan, conversationId } }));
  const all = [...unseen, ...stored];
  if (keepInTab(STORED, all)) return;
  forgetDraftsOfReload();
  if (!keepInTab(STORED, all)) keepInTab(STORED, all.map(withBeginning));
}

/** A turn with the beginning of its question, which the page then shows like those of other clients. @param {StoredTurn} turn */
function withBeginning({ plan, ...turn }) {
  const question = plan.question && plan.question.slice(0, BEGINNING);
  return { ...turn, plan: { ...plan, question, prefix: [], isOthers: true } };
}

/** The turns that ran when the page was left. @returns {StoredTurn[]} */
export function storedTurns() {
  return keptInTab(STORED, []);
}

/** Keeps these turns beside those that the page follows. @param {StoredTurn[]} stored */
export function setUnseen(stored) {
  unseen = stored;
  storeTurns();
}

/** @param {string | null} conversationId @returns {Turn | null} */
export function turnOf(conversationId) {
  const found = [...turns].find((turn) => turn.conversationId === conversationId && conversationId !== null);
  return found ?? null;
}

/** Whether a turn runs in the conversation, also if another client has begun it. @param {string} conversationId */
export function isRunning(conversationId) {
  return turnOf(conversationId) !== null || state.running.some((turn) => turn.conversation_id === conversationId);
}

/** Stops the turn that runs in the conversation, if one does. Its question is not given back. @param {string} conversationId */
export async function dropTurn(conversationId) {
  const turn = turnOf(conversationId);
  if (turn !== null) {
    turn.isGivenBack = false;
    return await turn.stop();
  }
  const elsewhere = state.running.find((running) => running.conversation_id === conversationId);
  if (elsewhere !== undefined) await call("DELETE", `chat/turns/${elsewhere.message_id}`, undefined, undefined, conversationId);
}
