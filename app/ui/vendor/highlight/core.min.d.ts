// The parts of highlight.js that the page uses. Its own types are for its whole package.

/** A part of highlighted code: a text, or parts with what they are. */
export type Highlighted = string | { scope?: string; children: Highlighted[] };

declare const hljs: {
  getLanguage(name: string): object | undefined;
  registerLanguage(name: string, grammar: object): void;
  highlight(text: string, options: { language: string; ignoreIllegals: boolean }): {
    _emitter: { rootNode: { children: Highlighted[] } };
  };
};

export default hljs;
