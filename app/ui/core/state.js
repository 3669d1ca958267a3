// Holds what several parts of the page show, and tells them when it changes.

/** @import { HealthResponse, ModelEntry, RunningTurn } from "../wire.d.ts" */

/** @type {{ models: ModelEntry[], currentModel: string | null, health: HealthResponse | null, running: RunningTurn[] }} */
export const state = { models: [], currentModel: null, health: null, running: [] };

const changes = new EventTarget();

/** @typedef {"models" | "health" | "turns" | "running" | "conversations" | "conversation"} Topic */

/** @param {Topic} topic @param {() => void} listener */
export function onChange(topic, listener) {
  changes.addEventListener(topic, listener);
}

/** @param {Topic} topic */
export function changed(topic) {
  changes.dispatchEvent(new Event(topic));
}
