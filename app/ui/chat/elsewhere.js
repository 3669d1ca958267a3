// Watches which turns run on the server, also those of other browsers and clients, so that the page can follow them.

import { call } from "../core/api.js";
import { changed, onChange, state } from "../core/state.js";

/** @import { RunningTurnsResponse } from "../wire.d.ts" */

const POLL_MS = 3000;

/**
 * Call this once.
 * @param {() => string | null} openId the conversation whose server is asked, if there are several servers
 * @param {() => boolean} mayAsk whether the server would answer
 */
export function watchTurns(openId, mayAsk) {
  let timer = 0;
  const look = async () => {
    clearTimeout(timer);
    if (document.visibilityState === "visible" && mayAsk()) await read(openId()).catch(() => {}); // said elsewhere
    clearTimeout(timer);
    timer = setTimeout(look, POLL_MS);
  };
  document.addEventListener("visibilitychange", look);
  onChange("turns", look);
  look();
}

/** @param {string | null} openId */
async function read(openId) {
  /** @type {RunningTurnsResponse} */
  const { turns } = await call("GET", "chat/turns", undefined, undefined, openId ?? undefined);
  const before = new Set(state.running.map((turn) => turn.message_id));
  const now = new Set(turns.map((turn) => turn.message_id));
  state.running = turns;
  if (before.size === now.size && [...now].every((id) => before.has(id))) return;
  changed("running");
  if ([...before].some((id) => !now.has(id))) changed("conversations"); // one has ended, and is stored
}
