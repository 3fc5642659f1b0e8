/**
 * What the server says of a finished video, and the addresses of its files. Nothing here touches the page.
 *
 * @typedef {{filename: string, subfolder: string, type: string}} FileItem
 * @typedef {{first_frame: ?number, reference: ?number, seam: ?number, step: ?number, black: number[][],
 *   frozen: number[][]}} Checks PSNR in decibels; runs of frames as [first, last], counted from 0
 * @typedef {{id: string, file: FileItem, fps: number, frames: number, width: number, height: number,
 *   has_audio: boolean, settings: Object<string, string>, checks: Checks,
 *   reference: ?(FileItem & {frames: number})}} Result
 */

/** @returns {?Result} the video in a node's output; null if there is none */
export function readResult(output) {
  const file = output?.images?.[0]
  const told = output?.cogvideox_player?.[0]
  return file && told ? { ...told, file } : null
}

/** @returns {string} the route to a file; `version` keeps the browser from showing an older file of the same name */
export function viewRoute({ filename, subfolder, type }, version) {
  return `/view?${new URLSearchParams({ filename, subfolder, type, v: version })}`
}

/** @returns {string} the name for a picture of one frame of a video file */
export function snapshotName(filename, frame) {
  return `${filename.replace(/\.[^.]+$/, "")}frame_${String(frame + 1).padStart(4, "0")}.png`
}
