// Copies texts, also on pages without HTTPS, where browsers offer no clipboard to scripts.

import { el, fill, iconButton } from "./dom.js";
import { icon } from "./icons.js";

const SHOWN_MS = 1500;

/**
 * A button that copies a text and says so for a moment.
 * @param {() => string} text @param {string} name @returns {HTMLButtonElement}
 */
export function copyButton(text, name) {
  const button = iconButton(icon("copy"), name, async () => {
    await copy(text(), button);
    fill(button, icon("check"));
    button.setAttribute("aria-label", "Copied");
    setTimeout(() => {
      fill(button, icon("copy"));
      button.setAttribute("aria-label", name);
    }, SHOWN_MS);
  });
  return button;
}

/** @param {string} text @param {HTMLElement} button beside which an element may have the focus, also in a dialog */
async function copy(text, button) {
  if (navigator.clipboard !== undefined) return await navigator.clipboard.writeText(text);
  const field = el("textarea", { class: "visually-hidden", readonly: true });
  field.value = text;
  button.after(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
