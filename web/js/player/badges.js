/**
 * The server's checks as badges: a few words, a level, and the frame that a click leads to. Independent of the page.
 *
 * @typedef {"good" | "fair" | "poor"} Level
 * @typedef {{key: string, text: string, hint: string, level: Level, frame: number | null}} Badge
 */

/**
 * Least decibels of each level: from 30 on two pictures look the same, from 20 on they are alike.
 * @type {[number, Level][]}
 */
const LEVELS = [
  [30, "good"],
  [20, "fair"],
  [-Infinity, "poor"],
]

/** A loop's seam may be this many decibels below the usual step between neighbours and still not be seen. */
const SEAM_TOLERANCE = 3

/**
 * @param {import("./payload.js").Checks} checks
 * @param {number} frames how many frames the video has
 * @param {import("../parts/strings.js").Translate} t
 * @returns {Badge[]}
 */
export function badges(checks, frames, t) {
  /** @type {Badge[]} */
  const found = []
  /** @type {(value: number) => string} */
  const decibels = (value) => String(Math.round(value * 10) / 10)
  /**
   * @param {"firstFrame" | "referenceMean" | "seam" | "black" | "frozen"} key
   * @param {Level} level
   * @param {number | null} frame
   * @param {Record<string, string>} values
   * @param {Record<string, string>} hints
   */
  const add = (key, level, frame, values, hints = {}) =>
    found.push({ key, text: t(key, values), hint: t(`${key}Hint`, hints), level, frame })
  if (checks.first_frame !== null) {
    add("firstFrame", levelOf(checks.first_frame), 0, { value: decibels(checks.first_frame) })
  }
  if (checks.reference !== null) {
    add("referenceMean", levelOf(checks.reference), null, { value: decibels(checks.reference) })
  }
  if (checks.seam !== null && checks.step !== null) {
    const level = checks.seam >= checks.step - SEAM_TOLERANCE ? "good" : levelOf(checks.seam)
    add("seam", level, frames - 1, { value: decibels(checks.seam) }, { step: decibels(checks.step) })
  }
  for (const key of /** @type {const} */ (["black", "frozen"])) {
    if (checks[key].length) add(key, "poor", checks[key][0][0], { runs: rangesText(checks[key]) })
  }
  return found
}

/**
 * Ranges of frames as people count them: [[0, 2], [7, 7]] is "1–3, 8".
 * @param {import("./payload.js").FrameRange[]} ranges
 */
export function rangesText(ranges) {
  return ranges.map(([first, last]) => (first === last ? `${first + 1}` : `${first + 1}–${last + 1}`)).join(", ")
}

/**
 * @param {number} decibels
 * @returns {Level}
 */
export function levelOf(decibels) {
  return LEVELS.find(([least]) => decibels >= least)?.[1] ?? "poor"
}
