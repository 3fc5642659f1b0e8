/**
 * Seeking to frames of one video. A request that comes while the video still seeks has to wait; only the latest counts.
 */

import { timeOfFrame } from "./frames.js"

const HAS_METADATA = 1

export class Seeker {
  #video
  /** @type {{frame: number, clip: import("./frames.js").Clip} | null} */
  #waiting = null

  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.#video = video
    for (const event of ["seeked", "loadedmetadata"]) video.addEventListener(event, () => this.#goOn())
  }

  /**
   * Show a frame of the clip as soon as the video can.
   * @param {number} frame
   * @param {import("./frames.js").Clip} clip
   */
  seek(frame, clip) {
    this.#waiting = { frame, clip }
    if (!this.#video.seeking && this.#video.readyState >= HAS_METADATA) this.#goOn()
  }

  /** Whether a requested frame is not shown yet. */
  get busy() {
    return this.#waiting !== null || this.#video.seeking
  }

  /** Drop the request: another file comes. */
  forget() {
    this.#waiting = null
  }

  #goOn() {
    if (this.#waiting === null) return
    const { frame, clip } = this.#waiting
    this.#waiting = null
    this.#video.currentTime = timeOfFrame(frame, clip)
  }
}
