// Shows a text in Markdown that grows. Blocks that have ended stay as they are; only the last one is drawn again.

import { el } from "../core/dom.js";
import { blocksOf, drawBlock } from "./draw.js";

/** @import { Token } from "../vendor/marked/marked.esm.js" */

const QUICK_MS = 4; // a longer drawing is followed by a pause, so that typing and scrolling come in between
const PAUSES = 4; // as many times as long

export class MarkdownView {
  constructor() {
    this.element = el("div", { class: "markdown" });
    this.text = "";
    this.drawn = 0; // characters in blocks that have ended
    this.seen = 0; // characters at the last drawing
    this.isDue = false;
    this.isPlain = false; // whether the text is too deeply nested to be drawn as Markdown
    /** @type {Node[]} the nodes of the last block */
    this.open = [];
    /** @type {Token | null} */
    this.openToken = null;
  }

  /** Adds a piece of text, to be drawn with the next frame. @param {string} piece */
  append(piece) {
    this.text += piece.replaceAll("\r", "");
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => this.drawSoon());
  }

  /** Shows a whole text. @param {string} text */
  show(text) {
    this.text = text.replaceAll("\r", "");
    this.drawn = 0;
    this.open = [];
    this.openToken = null;
    this.#guard(() => this.element.replaceChildren(...blocksOf(this.text).map((block) => drawBlock(block, true))));
    this.drawn = this.seen = this.text.length;
  }

  /** Draws what is missing, the last block as a whole one. */
  finish() {
    if (/^ {0,3}\[[^\]]+\]:/m.test(this.text)) return this.show(this.text); // it defines addresses of its links
    this.draw();
    if (this.openToken !== null && !this.isPlain) this.replaceOpen(this.openToken, true);
    this.open = [];
    this.openToken = null;
    this.drawn = this.text.length;
  }

  drawSoon() {
    const began = performance.now();
    this.isDue = false;
    this.draw();
    const took = performance.now() - began;
    if (took < QUICK_MS) return;
    this.isDue = true;
    setTimeout(() => this.drawSoon(), took * PAUSES);
  }

  draw() {
    if (this.seen === this.text.length) return;
    this.seen = this.text.length;
    this.#guard(() => this.#drawRest());
  }

  #drawRest() {
    const blocks = blocksOf(this.text.slice(this.drawn));
    const last = blocks.findLastIndex((block) => block.type !== "space");
    for (const [index, block] of blocks.entries()) {
      if (index < last) this.close(block);
      else if (index === last) this.redraw(block);
    }
  }

  /** Runs `draw`, or shows the bare text if its nesting exceeds what the parser or the browser can hold. @param {() => void} draw */
  #guard(draw) {
    try {
      if (!this.isPlain) return draw();
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.isPlain = true;
    }
    this.element.replaceChildren(el("div", { class: "undrawn", dir: "auto" }, this.text));
  }

  /** @param {Token} block the next one, which has ended */
  close(block) {
    this.replaceOpen(block, true);
    this.open = [];
    this.openToken = null;
    this.drawn += block.raw.length;
  }

  /** @param {Token} block the last one */
  redraw(block) {
    const before = this.openToken;
    if (before?.type === "code" && block.type === "code" && this.extendCode(before, block)) this.openToken = block;
    else this.replaceOpen(block, false);
  }

  /** Adds to a block of code without drawing it again. @param {any} before @param {any} block */
  extendCode(before, block) {
    const code = this.open[0] instanceof HTMLElement ? this.open[0].querySelector("code") : null;
    if (code?.firstChild instanceof Text && before.lang === block.lang && block.text.startsWith(before.text)) {
      code.firstChild.appendData(block.text.slice(before.text.length));
      return true;
    }
    return false;
  }

  /** @param {Token} block @param {boolean} isWhole */
  replaceOpen(block, isWhole) {
    for (const node of this.open) node.parentNode?.removeChild(node);
    const node = drawBlock(block, isWhole);
    this.open = node instanceof DocumentFragment ? [...node.childNodes] : [node];
    this.element.append(node);
    this.openToken = block;
  }
}
