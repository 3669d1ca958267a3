// Keeps the end of the conversation in sight while it grows, unless the person has scrolled up.

import { byId } from "../core/dom.js";

const NEAR = 60; // pixels

export class Scrolling {
  constructor() {
    this.scroller = byId("scroller", HTMLDivElement);
    this.button = byId("to-end", HTMLButtonElement);
    this.isAtEnd = true;
    this.lastTop = 0;
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.button.addEventListener("click", () => this.toEnd());
    const growing = new ResizeObserver(() => this.#grown());
    growing.observe(byId("messages", HTMLDivElement));
    growing.observe(this.scroller);
  }

  toEnd() {
    this.isAtEnd = true;
    this.#grown();
  }

  #grown() {
    if (this.isAtEnd) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#showButton();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const isNear = scrollHeight - scrollTop - clientHeight < NEAR;
    if (isNear) this.isAtEnd = true;
    else if (scrollTop < this.lastTop) this.isAtEnd = false; // growing alone does not count as leaving the end
    this.lastTop = scrollTop;
    this.#showButton();
  }

  #showButton() {
    this.button.hidden = this.isAtEnd;
  }
}
