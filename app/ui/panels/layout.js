// Opens and closes the list of conversations: beside the conversation, or above it on a narrow screen.

import { byId } from "../core/dom.js";

const NARROW = matchMedia("(max-width: 760px)");
const STORED = "sidebar";

export function listenToLayout() {
  byId("open-sidebar", HTMLButtonElement).addEventListener("click", () => show(!isOpen()));
  byId("close-sidebar", HTMLButtonElement).addEventListener("click", () => show(false));
  byId("shade", HTMLDivElement).addEventListener("click", () => show(false));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && NARROW.matches && isOpen()) show(false);
  });
  NARROW.addEventListener("change", begin);
  begin();
}

export function openSidebar() {
  show(true);
}

/** Closes the list where it covers the conversation. */
export function closeSidebar() {
  if (NARROW.matches) show(false);
}

function begin() {
  show(!NARROW.matches && localStorage.getItem(STORED) !== "closed");
}

function isOpen() {
  return document.body.classList.contains("with-sidebar");
}

/** @param {boolean} isShown */
function show(isShown) {
  document.body.classList.toggle("with-sidebar", isShown);
  byId("sidebar", HTMLElement).inert = !isShown;
  byId("open-sidebar", HTMLButtonElement).setAttribute("aria-expanded", String(isShown));
  if (!NARROW.matches) localStorage.setItem(STORED, isShown ? "open" : "closed");
}
