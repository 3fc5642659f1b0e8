/**
 * The settings of a result as rows of text. Independent of the page.
 *
 * @typedef {[name: string, value: string]} Row
 */

import { rateText } from "./frames.js"

/** The order of the rows; `size` is the size of the video. */
const ORDER = /** @type {const} */ ([
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
])

/**
 * A row for each setting that the server found.
 * @param {import("./payload.js").Result} result
 * @param {import("../parts/strings.js").Translate} t
 * @returns {Row[]}
 */
export function settingsRows({ settings, width, height, frames, fps }, t) {
  /** @type {Record<string, string>} */
  const known = { ...settings, size: t("sizeValue", { width, height, frames, fps: rateText(fps) }) }
  return ORDER.filter((key) => known[key]).map((key) => [t(key), known[key]])
}

/**
 * Rows as lines of text.
 * @param {Row[]} rows
 */
export function settingsText(rows) {
  return rows.map(([name, value]) => `${name}: ${value}`).join("\n")
}
