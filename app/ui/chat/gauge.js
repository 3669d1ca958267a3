// Shows how much of the model's context window the conversation fills.

import { byId } from "../core/dom.js";
import { count } from "../core/format.js";
import { state } from "../core/state.js";

/** @import { ConversationMessage } from "../wire.d.ts" */
/** @import { Turn } from "./turn.js" */

const NEARLY_FULL = 0.85;

/** @param {ConversationMessage[]} branch @param {Turn | null} turn */
export function showGauge(branch, turn) {
  const gauge = byId("gauge", HTMLSpanElement);
  const last = branch.findLast((message) => message.usage !== null);
  const used = turn?.start?.prompt_tokens ?? (last?.usage ? last.usage.prompt_tokens + last.usage.completion_tokens : null);
  const name = turn?.start?.model_name ?? last?.model_name;
  const window = state.models.find((model) => model.name === name)?.context_length;
  gauge.hidden = used === null || window === undefined;
  if (used === null || window === undefined) return;
  const share = Math.min(1, used / window);
  const text = `${count(used)} of ${count(window)} tokens of the context are used`;
  gauge.style.setProperty("--share", String(share));
  gauge.classList.toggle("full", share > NEARLY_FULL);
  gauge.title = text;
  gauge.setAttribute("aria-label", text);
  gauge.setAttribute("aria-valuenow", String(Math.round(share * 100)));
}
