/**
 * What the server says of finished clips, and the addresses of their files. Independent of the page.
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
 * @typedef {object} Result a clip
 * @property {string} id
 * @property {FileItem} file what was saved, or the first of its pictures
 * @property {number} files how many were saved: one, or a picture of every frame
 * @property {FileItem} shown what a page can play: the file itself, or an mp4 of it
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
 * The clips in a node's output; what an older server saved has one, and no word of its file but ComfyUI's own.
 * @param {any} output
 * @returns {Result[]}
 */
export function readClips(output) {
  const { images = [], cogvideox_player: clips = [] } = output ?? {}
  if (!images.length) return []
  return clips.map((/** @type {any} */ facts) => {
    const file = facts.file ?? images[0]
    return { ...facts, file, files: facts.files ?? 1, shown: facts.shown ?? file }
  })
}

/**
 * What the user gets who saves a clip: its file; of many pictures the video that is shown.
 * @param {Result} result
 */
export function savedFile({ file, files, shown }) {
  return files > 1 ? shown : file
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
