// Writes numbers, sizes, times and days for people, in the browser's language where it is one of English.

const ENGLISH = navigator.languages.find((language) => language.startsWith("en")) ?? "en-GB";
const NUMBER = new Intl.NumberFormat(ENGLISH);
const MONTH = new Intl.DateTimeFormat(ENGLISH, { month: "long", year: "numeric" });
const TIME = new Intl.DateTimeFormat(ENGLISH, { timeStyle: "short" });
const DAY = new Intl.DateTimeFormat(ENGLISH, { day: "numeric", month: "short" });
const DAY_OF_YEAR = new Intl.DateTimeFormat(ENGLISH, { day: "numeric", month: "short", year: "numeric" });
const MOMENT = new Intl.DateTimeFormat(ENGLISH, { dateStyle: "medium", timeStyle: "short" });
const DAY_MS = 24 * 3600 * 1000;

/** @param {number} number */
export function count(number) {
  return NUMBER.format(number);
}

/** @param {number} share between 0 and 1 */
export function percent(share) {
  return `${Math.floor(share * 100)}\u00a0%`;
}

/** @param {number} bytes */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let unit = -1;
  let value = bytes;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  return `${Math.round(seconds / 60)} min`;
}

/** @param {string} timestamp */
export function moment(timestamp) {
  return MOMENT.format(new Date(timestamp));
}

/** When it was, as short as is clear. @param {string} timestamp @param {Date} now */
export function shortMoment(timestamp, now) {
  const date = new Date(timestamp);
  if (startOfDay(date) === startOfDay(now)) return TIME.format(date);
  const day = date.getFullYear() === now.getFullYear() ? DAY : DAY_OF_YEAR;
  return `${day.format(date)}, ${TIME.format(date)}`;
}

/** The heading of the group of a day in the list. @param {string} timestamp @param {Date} now */
export function dayGroup(timestamp, now) {
  const date = new Date(timestamp);
  const days = Math.round((startOfDay(now) - startOfDay(date)) / DAY_MS);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  if (days < 7) return "Last 7 days";
  if (days < 30) return "Last 30 days";
  return MONTH.format(date);
}

/** @param {Date} date */
function startOfDay(date) {
  return new Date(date.getFullYear(), date.getMonth(), date.getDate()).getTime();
}
