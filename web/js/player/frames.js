/**
 * Frames and times: which frame a moment shows, where to seek for a frame, and the order in which frames play.
 *
 * A frame's number counts from 0 in code and from 1 in what is shown. Nothing here touches the page.
 *
 * @typedef {{fps: number, frames: number}} Clip
 */

/** How playing goes on at the last frame, in the order the button offers it. */
export const ENDINGS = ["loop", "pingpong", "once"]

/** Speeds, in the order the button offers them. */
export const SPEEDS = [1, 2, 0.25, 0.5]

/** @returns {number} `frame` as a whole number from 0 to the last frame of the clip */
export function clampFrame(frame, { frames }) {
  return Math.min(Math.max(Math.round(frame), 0), Math.max(frames - 1, 0))
}

/** @returns {number} the second to seek to: the middle of a frame, so that no rounding shows a neighbour */
export function timeOfFrame(frame, clip) {
  return (clampFrame(frame, clip) + 0.5) / clip.fps
}

/** @returns {number} the frame a moment (in seconds) shows; a moment a hair before a frame counts as that frame */
export function frameAtTime(seconds, clip) {
  return clampFrame(Math.floor(seconds * clip.fps + 1e-3), clip)
}

/** @returns {number} the frame at a place of the scrub bar, which gives every frame the same width */
export function frameAtPlace(x, width, clip) {
  return clampFrame(Math.floor((x / width) * clip.frames), clip)
}

/** @returns {number} from 0 to 1: where the scrub bar has the middle of a frame */
export function placeOfFrame(frame, clip) {
  return (clampFrame(frame, clip) + 0.5) / clip.frames
}

/** @returns {number} a frame so many steps on; beyond an end it goes on at the other one if `wrap` */
export function stepFrame(frame, steps, clip, wrap) {
  const target = frame + steps
  return wrap ? ((target % clip.frames) + clip.frames) % clip.frames : clampFrame(target, clip)
}

/**
 * The frame that plays backwards, from the last one but one: the last has been shown already.
 * @param {number} seconds since the last frame's time was over
 * @returns {number} 0 or less once it is time to play forwards again, from frame 0
 */
export function backwardFrame(seconds, speed, clip) {
  return clip.frames - 2 - Math.floor(seconds * clip.fps * speed + 1e-6)
}

/** @returns {any} the entry after `current` of a list, from the start again after the last */
export function following(list, current) {
  return list[(list.indexOf(current) + 1) % list.length]
}

/** @returns {string} frames per second without needless digits: "8", "23.98" */
export function rateText(fps) {
  return String(Math.round(fps * 100) / 100)
}

/** @returns {string} the frame's number and the count, padded so that the text keeps its width: " 7/49" */
export function frameText(frame, { frames }) {
  const count = String(frames)
  return `${String(frame + 1).padStart(count.length, "\u2007")}/${count}`
}
