/** The settings of a result as rows for people. Nothing here touches the page. */

import { rateText } from "./frames.js"

/** The order of the rows; `size` is the video's own. */
const ORDER = [
  "model",
  "lora",
  "seed",
  "steps",
  "cfg",
  "dynamic_cfg",
  "sampler",
  "scheduler",
  "denoise",
  "size",
  "positive",
  "negative",
]

/**
 * @param {import("./payload.js").Result} result
 * @param {(key: string, values?: Object) => string} t
 * @returns {Array<[string, string]>} names and values; what the server did not find has no row
 */
export function settingsRows({ settings, width, height, frames, fps }, t) {
  const known = { ...settings, size: t("sizeValue", { width, height, frames, fps: rateText(fps) }) }
  return ORDER.filter((key) => known[key]).map((key) => [t(key), known[key]])
}

/** @returns {string} rows as lines of text */
export function settingsText(rows) {
  return rows.map(([name, value]) => `${name}: ${value}`).join("\n")
}
