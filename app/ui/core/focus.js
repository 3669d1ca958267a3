// Draws lists of links and buttons anew without taking the keyboard's focus away. Their `data-key` says which is which.

import { fill } from "./dom.js";

/** @import { Child } from "./dom.js" */

/**
 * Replaces the children of an element. If one of its links or buttons has the focus, the one with the same key gets it,
 * or else the one in its place.
 * @param {HTMLElement} list @param {Child[]} children @param {HTMLElement} [otherwise] gets the focus if nothing else can
 */
export function refill(list, children, otherwise) {
  const before = focusable(list);
  const place = before.findIndex((element) => element === document.activeElement);
  fill(list, ...children);
  const key = before[place]?.dataset["key"];
  if (place >= 0) focusOn(list, key, place, otherwise);
}

/**
 * Focuses the link or button with this key, or else the one in its place.
 * @param {HTMLElement} list @param {string | undefined} key @param {number} place @param {HTMLElement} [otherwise]
 */
export function focusOn(list, key, place, otherwise) {
  const all = focusable(list);
  const same = key === undefined ? undefined : all.find((element) => element.dataset["key"] === key);
  (same ?? all[Math.min(place, all.length - 1)] ?? otherwise)?.focus();
}

/** @param {HTMLElement} list @returns {HTMLElement[]} */
function focusable(list) {
  return [.../** @type {NodeListOf<HTMLElement>} */ (list.querySelectorAll("a, button:enabled"))];
}
