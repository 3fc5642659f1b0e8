/** A run's progress in a few words. */

/**
 * "step 3 of 20, 1 min 5 s left"; without a time where none is left.
 * @param {{step: number, steps: number, seconds_left: number}} progress data of a `cogvideox.step` message
 * @returns {string}
 */
export function progressText({ step, steps, seconds_left: seconds }) {
  const counted = `step ${step} of ${steps}`
  return step < steps ? `${counted}, ${duration(seconds)} left` : counted
}

/**
 * @param {number} seconds
 * @returns {string}
 */
function duration(seconds) {
  const whole = Math.ceil(seconds)
  if (whole < 60) return `${whole} s`
  const minutes = Math.floor(whole / 60)
  return minutes < 60 ? `${minutes} min ${whole % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
