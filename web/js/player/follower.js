/** A second video that shows the same moment as the first, or its last frame where it is shorter: one to compare with. */

import { Seeker } from "./seeker.js"

const PATIENCE = 0.75 // frames that the two may be apart while both play

export class Follower {
  #video
  #seeker

  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.#video = video
    this.#seeker = new Seeker(video)
  }

  /**
   * Go where the first video is.
   * @param {import("./playback.js").Playback} playback of the first video
   * @param {number} seconds where the first video is
   */
  follow(playback, seconds) {
    const video = this.#video
    video.playbackRate = playback.speed
    if (seconds >= video.duration) {
      this.#stayAtEnd(playback.clip)
      return
    }
    if (!playback.rolling) {
      video.pause()
      this.#seeker.seek(playback.frame, playback.clip)
      return
    }
    if (Math.abs(video.currentTime - seconds) * playback.clip.fps > PATIENCE && !this.#seeker.busy) {
      video.currentTime = seconds
    }
    if (video.paused) video.play().catch(() => {}) // refused or given up: the next frame asks again
  }

  /** Stand in the middle of the last frame. */
  #stayAtEnd({ fps }) {
    const video = this.#video
    const last = video.duration - 0.5 / fps
    video.pause()
    if (Math.abs(video.currentTime - last) * fps > 0.25 && !this.#seeker.busy) video.currentTime = last
  }
}
