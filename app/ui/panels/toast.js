// Says something for a few seconds, at the lower edge of the page.

import { byId, el } from "../core/dom.js";

const SHOWN_MS = 6000;
const READ_MS = 80; // a character

/** @param {string} text @param {{ name: string, run: () => void }} [action] */
export function toast(text, action) {
  const place = byId("toasts", HTMLDivElement);
  const act = () => {
    message.remove();
    action?.run();
  };
  const message = el("p", { class: "toast" }, el("span", {}, text), action && el("button", { type: "button", onclick: act }, action.name));
  place.append(message);
  removeLater(message, Math.max(SHOWN_MS, READ_MS * text.length));
}

/** Removes a message, but not from under the pointer or the focus. @param {HTMLElement} message @param {number} after_ms */
function removeLater(message, after_ms) {
  setTimeout(() => (message.matches(":hover, :focus-within") ? removeLater(message, after_ms) : message.remove()), after_ms);
}

/** Says what went wrong. @param {unknown} error */
export function sayError(error) {
  if (!(error instanceof Error)) throw error;
  const hint = "hint" in error && error.hint ? ` ${error.hint}` : "";
  toast(error.message + hint);
}
