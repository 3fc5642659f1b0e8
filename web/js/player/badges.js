/**
 * The server's checks as badges: a few words, a level, and the frame a click leads to. Nothing here touches the page.
 *
 * @typedef {{key: string, text: string, hint: string, level: "good" | "fair" | "poor", frame: ?number}} Badge
 */

/** From so many decibels on, two pictures look the same, or are at least alike. */
const LEVELS = [
  [30, "good"],
  [20, "fair"],
  [-Infinity, "poor"],
]

/** A loop's seam may be so many decibels below the usual step between neighbours and still not be seen. */
const SEAM_TOLERANCE = 3

/**
 * @param {import("./payload.js").Checks} checks
 * @param {number} frames the video's count
 * @param {(key: string, values?: Object) => string} t
 * @returns {Badge[]}
 */
export function badges(checks, frames, t) {
  const found = []
  const decibels = (value) => String(Math.round(value * 10) / 10)
  const add = (key, level, frame, values, hints = {}) =>
    found.push({ key, text: t(key, values), hint: t(`${key}Hint`, hints), level, frame })
  if (checks.first_frame !== null) {
    add("firstFrame", levelOf(checks.first_frame), 0, { value: decibels(checks.first_frame) })
  }
  if (checks.reference !== null) {
    add("referenceMean", levelOf(checks.reference), null, { value: decibels(checks.reference) })
  }
  if (checks.seam !== null) {
    const level = checks.seam >= checks.step - SEAM_TOLERANCE ? "good" : levelOf(checks.seam)
    add("seam", level, frames - 1, { value: decibels(checks.seam) }, { step: decibels(checks.step) })
  }
  for (const key of ["black", "frozen"]) {
    if (checks[key].length) add(key, "poor", checks[key][0][0], { runs: runsText(checks[key]) })
  }
  return found
}

/** @returns {string} runs of frames as people count them: [[0, 2], [7, 7]] is "1–3, 8" */
export function runsText(runs) {
  return runs.map(([first, last]) => (first === last ? `${first + 1}` : `${first + 1}–${last + 1}`)).join(", ")
}

/** @returns {string} "good", "fair" or "poor" */
export function levelOf(decibels) {
  return LEVELS.find(([least]) => decibels >= least)[1]
}
