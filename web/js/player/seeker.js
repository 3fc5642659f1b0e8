/**
 * Seeking to frames of one video: a wish that comes while the video still seeks waits, and only the latest counts.
 */

import { timeOfFrame } from "./frames.js"

const HAS_METADATA = 1

export class Seeker {
  #video
  #waiting = null

  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.#video = video
    for (const event of ["seeked", "loadedmetadata"]) video.addEventListener(event, () => this.#goOn())
  }

  /** Show a frame of the clip as soon as the video can. */
  seek(frame, clip) {
    this.#waiting = { frame, clip }
    if (!this.#video.seeking && this.#video.readyState >= HAS_METADATA) this.#goOn()
  }

  /** Whether a frame that was asked for is not there yet. */
  get busy() {
    return this.#waiting !== null || this.#video.seeking
  }

  /** Forget what was asked for; another file comes. */
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
