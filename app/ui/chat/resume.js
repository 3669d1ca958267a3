// Goes on with the turns that ran when the page was left.

import { call } from "../core/api.js";
import { setUnseen, storedTurns } from "./followed.js";
import { Turn } from "./turn.js";

/** @import { ConversationMessage, RunningTurnsResponse } from "../wire.d.ts" */
/** @import { StoredTurn } from "./followed.js" */
/** @import { Plan } from "./turn.js" */

/**
 * What to do about turns of which the page had no event before it was left: some run or have ended, others have never begun.
 * @typedef {{ open: (conversationId: string) => void, giveBack: (question: string, conversationId: string | null) => void }} Unsure
 */

const LOOKUP_MS = 5000; // before a page that is opened again does without the server

/** @param {Unsure} unsure */
export async function resumeTurns(unsure) {
  const stored = storedTurns();
  const unseen = stored.filter(({ messageId }) => messageId === "");
  setUnseen(unseen);
  for (const { messageId, plan } of stored) if (messageId !== "") new Turn(plan).resume(messageId);
  if (unseen.length > 0) await resumeUnseen(unseen, unsure);
  setUnseen([]);
}

/** @param {StoredTurn[]} unseen @param {Unsure} unsure */
async function resumeUnseen(unseen, { open, giveBack }) {
  const signal = AbortSignal.timeout(LOOKUP_MS);
  await Promise.all(
    unseen.map(async ({ session, plan }) => {
      const found = await findRunning(session, plan, signal);
      if (found !== undefined) new Turn({ ...plan, conversationId: session }).resume(found.message_id);
      else if (!(await isStored(session, plan, signal))) return giveBack(plan.question ?? "", plan.conversationId);
      if (plan.conversationId === null) open(session);
    }),
  );
}

/** @param {string} id of the conversation @param {Plan} plan @param {AbortSignal} signal */
async function findRunning(id, { keptUntil }, signal) {
  /** @type {RunningTurnsResponse} */
  const { turns: running } = await call("GET", "chat/turns", undefined, signal, id).catch(() => ({ turns: [] }));
  return running.find((turn) => turn.conversation_id === id && turn.parent_id === keptUntil);
}

/** Returns whether the question of a turn is stored. @param {string} id @param {Plan} plan @param {AbortSignal} signal */
async function isStored(id, { keptUntil, question }, signal) {
  /** @type {{ messages: ConversationMessage[] }} */
  const { messages } = await call("GET", `chat/conversation/${id}`, undefined, signal).catch(() => ({ messages: [] }));
  return messages.some((message) => message.parent_id === keptUntil && message.role === "user" && message.content === question);
}
