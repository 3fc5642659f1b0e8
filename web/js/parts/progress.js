/** The progress of a run in words. */

/**
 * "Step 3 of 20 · 1:05 left"; after the last step without a time.
 * @param {{step: number, steps: number, seconds_left: number}} progress data of a `cogvideox.step` message
 * @param {import("./strings.js").Translate} t
 */
export function progressText({ step, steps, seconds_left: seconds }, t) {
  const counted = t("stepOf", { step, steps })
  return step < steps ? `${counted} · ${t("left", { time: durationText(seconds) })}` : counted
}

/**
 * A duration for people: "8 s", "1:05", "1:00:05".
 * @param {number} seconds
 */
export function durationText(seconds) {
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return `${whole} s`
  /** @type {(number: number) => string} */
  const pad = (number) => String(number).padStart(2, "0")
  const minutes = Math.floor(whole / 60)
  return minutes < 60
    ? `${minutes}:${pad(whole % 60)}`
    : `${Math.floor(minutes / 60)}:${pad(minutes % 60)}:${pad(whole % 60)}`
}
