/**
 * What the server says of a finished video, and the addresses of its files. Independent of the page.
 *
 * @typedef {[first: number, last: number]} FrameRange frames that follow each other, counted from 0
 * @typedef {{filename: string, subfolder: string, type: string}} FileItem
 *
 * @typedef {object} Checks as cogvideox_core/videos/checks.py measures them: PSNR in decibels, null where it has no
 *   meaning
 * @property {number | null} first_frame against the reference image
 * @property {number | null} reference against the reference video
 * @property {number | null} seam of the last frame against the first
 * @property {number | null} step between neighbours, the median
 * @property {FrameRange[]} black
 * @property {FrameRange[]} frozen in a range, every frame but the first repeats the one before
 *
 * @typedef {object} Result
 * @property {string} id
 * @property {FileItem} file
 * @property {number} fps
 * @property {number} frames how many
 * @property {number} width in pixels
 * @property {number} height in pixels
 * @property {boolean} has_audio
 * @property {Record<string, string>} settings
 * @property {Checks} checks
 * @property {(FileItem & {frames: number}) | null} reference
 */

/**
 * The video in a node's output; null if there is none.
 * @param {any} output
 * @returns {Result | null}
 */
export function readResult(output) {
  const file = output?.images?.[0]
  const facts = output?.cogvideox_player?.[0]
  return file && facts ? { ...facts, file } : null
}

/**
 * The route to a file.
 * @param {FileItem} file
 * @param {string} version keeps the browser from showing an older file of the same name
 */
export function viewRoute({ filename, subfolder, type }, version) {
  return `/view?${new URLSearchParams({ filename, subfolder, type, v: version })}`
}

/**
 * The name for a picture of one frame of a video file.
 * @param {string} filename
 * @param {number} frame
 */
export function snapshotName(filename, frame) {
  return `${filename.replace(/\.[^.]+$/, "")}frame_${String(frame + 1).padStart(4, "0")}.png`
}
