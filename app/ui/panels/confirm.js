// Asks before something that cannot be undone.

import { byId, el, fill } from "../core/dom.js";

/**
 * @param {string} question @param {string} consequence @param {string} action
 * @param {boolean} [isGrave] whether Enter alone must not do it
 * @returns {Promise<boolean>}
 */
export function confirm(question, consequence, action, isGrave = false) {
  const dialog = byId("confirm", HTMLDialogElement);
  const close = (/** @type {string} */ value) => () => dialog.close(value);
  const cancel = el("button", { type: "button", class: "quiet", onclick: close("no") }, "Cancel");
  const go = el("button", { type: "button", class: "primary danger", onclick: close("yes") }, action);
  fill(dialog, el("h2", { id: "confirm-title" }, question), el("p", {}, consequence), el("div", { class: "buttons" }, cancel, go));
  dialog.returnValue = "no";
  dialog.showModal();
  (isGrave ? cancel : go).focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
