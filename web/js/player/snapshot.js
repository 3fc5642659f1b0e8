/** Pictures of the frame that a video shows. */

import { download, element } from "./elements.js"

const THUMBNAIL_WIDTH = 96 // pixels
const THUMBNAIL_QUALITY = 0.7 // of JPEG, from 0 to 1

/**
 * Save the frame as a PNG file of the video's own size.
 * @param {HTMLVideoElement} video
 * @param {string} name of the file
 */
export function saveFrame(video, name) {
  drawFrame(video, video.videoWidth).toBlob((blob) => {
    if (!blob) return
    const url = URL.createObjectURL(blob)
    download(url, name)
    setTimeout(() => URL.revokeObjectURL(url), 0)
  }, "image/png")
}

/**
 * The frame as a small picture.
 * @param {HTMLVideoElement} video
 * @returns {string} a data URL
 */
export function thumbnail(video) {
  return drawFrame(video, THUMBNAIL_WIDTH).toDataURL("image/jpeg", THUMBNAIL_QUALITY)
}

/**
 * @param {HTMLVideoElement} video
 * @param {number} width of the picture in pixels
 */
function drawFrame(video, width) {
  const height = Math.round((width / video.videoWidth) * video.videoHeight)
  const canvas = element("canvas", { width, height })
  canvas.getContext("2d")?.drawImage(video, 0, 0, canvas.width, canvas.height)
  return canvas
}
