/**
 * Frames and times: which frame a moment shows, where to seek for a frame, and the order in which frames play.
 *
 * A frame's number counts from 0 in code and from 1 in what is shown. Independent of the page.
 *
 * @typedef {{fps: number, frames: number}} Clip `frames`: how many it has
 * @typedef {"loop" | "pingpong" | "once"} Ending
 */

/**
 * What happens after the last frame, in the order in which the button offers it.
 * @type {Ending[]}
 */
export const ENDINGS = ["loop", "pingpong", "once"]

/** Speeds, in the order in which the button offers them. */
export const SPEEDS = [1, 2, 0.25, 0.5]

/**
 * The nearest frame of the clip.
 * @param {number} frame
 * @param {Pick<Clip, "frames">} clip
 */
export function clampFrame(frame, { frames }) {
  return Math.min(Math.max(Math.round(frame), 0), Math.max(frames - 1, 0))
}

/**
 * The second to seek to for a frame: its middle, so that no rounding shows a neighbour.
 * @param {number} frame
 * @param {Clip} clip
 */
export function timeOfFrame(frame, clip) {
  return (clampFrame(frame, clip) + 0.5) / clip.fps
}

/**
 * The frame that a moment shows; a moment right before a frame counts as that frame.
 * @param {number} seconds
 * @param {Clip} clip
 */
export function frameAtTime(seconds, clip) {
  return clampFrame(Math.floor(seconds * clip.fps + 1e-3), clip)
}

/**
 * The frame at a position on the scrub bar, where every frame has the same width.
 * @param {number} x pixels from the left end
 * @param {number} width of the bar in pixels
 * @param {Clip} clip
 */
export function frameAtPosition(x, width, clip) {
  return clampFrame(Math.floor((x / width) * clip.frames), clip)
}

/**
 * The position of a frame's middle on the scrub bar, from 0 to 1.
 * @param {number} frame
 * @param {Clip} clip
 */
export function positionOfFrame(frame, clip) {
  return (clampFrame(frame, clip) + 0.5) / clip.frames
}

/**
 * The frame `steps` after `frame`.
 * @param {number} frame
 * @param {number} steps negative: before it
 * @param {Pick<Clip, "frames">} clip
 * @param {boolean} wrap whether the other end follows an end
 */
export function stepFrame(frame, steps, clip, wrap) {
  const target = frame + steps
  return wrap ? ((target % clip.frames) + clip.frames) % clip.frames : clampFrame(target, clip)
}

/**
 * The frame to show while the clip plays backwards. It begins with the last but one: the last has been shown already.
 * @param {number} seconds since the last frame's time was over
 * @param {number} speed
 * @param {Clip} clip
 * @returns {number} 0 or less once it is time to play forwards again, from frame 0
 */
export function backwardFrame(seconds, speed, clip) {
  return clip.frames - 2 - Math.floor(seconds * clip.fps * speed + 1e-6)
}

/**
 * The entry after `current`; the first one follows the last.
 * @template T
 * @param {T[]} list
 * @param {T} current
 */
export function following(list, current) {
  return list[(list.indexOf(current) + 1) % list.length]
}

/**
 * Frames per second without needless digits: "8", "23.98".
 * @param {number} fps
 */
export function rateText(fps) {
  return String(Math.round(fps * 100) / 100)
}

/**
 * The frame's number and the count, padded so that the text keeps its width: " 7/49".
 * @param {number} frame
 * @param {Pick<Clip, "frames">} clip
 */
export function frameText(frame, { frames }) {
  const count = String(frames)
  return `${String(frame + 1).padStart(count.length, "\u2007")}/${count}`
}
