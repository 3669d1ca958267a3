// Reads text files for a message, and finds them again in one. Their form is that of the terminal client.

/** @typedef {{ name: string, text: string }} TextFile */

const MAX_BYTES = 1_000_000;
const FILE = /(?:^|\n\n)([^\n]{1,200}):\n(`{3,})[\w+-]*\n([^]*?)\n\2(?=\n\n|$)/g;

/** @param {File} file @returns {Promise<TextFile>} rejects with a sentence if it is not a text */
export async function readText(file) {
  if (file.size > MAX_BYTES) throw new Error(`${file.name} is too large for a message.`);
  const bytes = await file.arrayBuffer();
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!text.includes("\0")) return { name: file.name, text: text.replaceAll("\r\n", "\n") };
  } catch {
    // said below
  }
  throw new Error(`${file.name} is not a text file.`);
}

/** The file as a part of a message, in a fence longer than any in it. @param {TextFile} file */
export function fenced({ name, text }) {
  const longest = Math.max(2, ...(text.match(/`{3,}/g) ?? []).map((run) => run.length));
  const fence = "`".repeat(longest + 1);
  const suffix = /\.(\w+)$/.exec(name)?.[1] ?? "";
  return `${name}:\n${fence}${suffix}\n${text.trimEnd()}\n${fence}`;
}

/** The words and the files of a message. @param {string} message @returns {{ words: string, files: TextFile[] }} */
export function attachmentsOf(message) {
  /** @type {TextFile[]} */
  const files = [];
  const words = message.replaceAll(FILE, (_all, name, _fence, text) => {
    files.push({ name, text });
    return "";
  });
  return { words: words.trim(), files };
}
