/** A second video, to compare with: it shows the same moment as the first, or its own last frame if it is shorter. */

import { Seeker } from "./seeker.js"

const TOLERANCE = 0.75 // frames that the two may be apart while both play

export class Follower {
  #video
  #seeker

  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.#video = video
    this.#seeker = new Seeker(video)
  }

  /**
   * Go to the moment that the first video shows.
   * @param {import("./playback.js").Playback} playback of the first video
   * @param {number} seconds that moment
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
    if (Math.abs(video.currentTime - seconds) * playback.clip.fps > TOLERANCE && !this.#seeker.busy) {
      video.currentTime = seconds
    }
    if (video.paused) video.play().catch(() => {}) // refused or interrupted: the next frame tries again
  }

  /**
   * Show the last frame: seek to the middle of it.
   * @param {import("./frames.js").Clip} clip
   */
  #stayAtEnd({ fps }) {
    const video = this.#video
    const last = video.duration - 0.5 / fps
    video.pause()
    if (Math.abs(video.currentTime - last) * fps > 0.25 && !this.#seeker.busy) video.currentTime = last
  }
}
