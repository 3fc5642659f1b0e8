/**
 * Playing one video by frames: play, step, scrub, speed, and what happens at the end.
 *
 * The video plays while it is wanted, seen and not held (by a finger on the scrub bar). Backwards it goes by seeking.
 */

import { ENDINGS, SPEEDS, backwardFrame, clampFrame, frameAtTime, stepFrame } from "./frames.js"
import { Seeker } from "./seeker.js"

export class Playback {
  clip = { fps: 1, frames: 1 }
  frame = 0
  wanted = false
  speed = SPEEDS[0]
  ending = ENDINGS[0]
  #video
  #seeker
  #onFrame
  #onChange
  #seen = false
  #held = false
  #loaded = false
  #backwardsSince = null // the time playing backwards began, in milliseconds

  /**
   * @param {HTMLVideoElement} video
   * @param {{onFrame: (frame: number) => void, onChange: () => void}} callbacks a frame is shown; the state changed
   */
  constructor(video, { onFrame, onChange }) {
    this.#video = video
    this.#seeker = new Seeker(video)
    this.#onFrame = onFrame
    this.#onChange = onChange
    video.addEventListener("ended", () => this.#atEnd())
    this.#watchFrames()
  }

  /** Whether pictures are moving now. */
  get playing() {
    return this.wanted && this.#seen && !this.#held && this.#loaded
  }

  /** Whether they move forwards, by the browser's own playing. */
  get rolling() {
    return this.playing && this.#backwardsSince === null
  }

  /** Show another file from its first frame. */
  load(url, clip, wanted) {
    this.clip = clip
    this.wanted = wanted
    this.#loaded = true
    this.#backwardsSince = null
    this.#seeker.forget()
    this.#video.src = url
    this.#show(0)
    this.#apply()
  }

  /** Let go of the file. */
  unload() {
    this.#loaded = false
    this.#apply()
    this.#seeker.forget()
    this.#video.removeAttribute("src")
    this.#video.load()
  }

  toggle() {
    this.wanted = !this.wanted
    const over = this.ending === "once" && this.frame === this.clip.frames - 1
    if (this.wanted && over) this.seek(0)
    else this.#apply()
  }

  /** Go to a frame; playing goes on from there if it is wanted. */
  seek(frame) {
    this.#backwardsSince = null
    if (!this.playing) this.#video.pause() // before it seeks: one that still plays goes on for a frame after that
    this.#show(clampFrame(frame, this.clip))
    this.#seeker.seek(this.frame, this.clip)
    this.#apply()
  }

  /** Stop, and go so many frames on or back. */
  step(frames) {
    this.wanted = false
    this.seek(stepFrame(this.frame, frames, this.clip, this.ending !== "once"))
  }

  /** Play as another player was set to. @param {{speed: number, ending: string}} habits */
  takeOver({ speed, ending }) {
    this.speed = speed
    this.ending = ending
  }

  /** Faster or slower, from the frame that is shown. */
  setSpeed(speed) {
    const now = performance.now()
    if (this.#backwardsSince !== null) this.#backwardsSince = now - ((now - this.#backwardsSince) * this.speed) / speed
    this.speed = speed
    this.#apply()
  }

  setEnding(ending) {
    this.ending = ending
    this.#backwardsSince = null
    this.#apply()
  }

  /** Nothing plays where nobody sees it. */
  setSeen(seen) {
    this.#seen = seen
    this.#apply()
  }

  /** Keep still while the scrub bar is held. */
  setHeld(held) {
    this.#held = held
    this.#apply()
  }

  #apply() {
    const video = this.#video
    video.loop = this.ending === "loop"
    video.playbackRate = this.speed
    if (!this.playing) this.#backwardsSince = null
    if (this.rolling) {
      // Playing is refused where the browser wants a click first, and given up where another file comes.
      if (video.paused) video.play().catch((error) => error.name === "NotAllowedError" && this.#giveUp())
    } else if (!video.paused) {
      video.pause()
      this.#settle()
    }
    this.#onChange()
  }

  /** Stand on a frame, unless one is sought: the picture may have gone on since the last that was told. */
  #settle() {
    if (this.#seeker.busy) return
    this.#show(frameAtTime(this.#video.currentTime, this.clip))
    this.#seeker.seek(this.frame, this.clip)
  }

  #giveUp() {
    this.wanted = false
    this.#apply()
  }

  #show(frame) {
    this.frame = frame
    this.#onFrame(frame)
  }

  #atEnd() {
    if (this.ending === "pingpong" && this.playing) {
      this.#backwardsSince = performance.now()
      this.#apply()
      requestAnimationFrame(() => this.#goBackwards())
    } else if (this.ending === "once") {
      this.#giveUp()
    } else {
      this.#apply()
    }
  }

  #goBackwards() {
    if (this.#backwardsSince === null) return
    const frame = backwardFrame((performance.now() - this.#backwardsSince) / 1000, this.speed, this.clip)
    if (frame <= 0) {
      this.seek(0)
      return
    }
    if (frame !== this.frame && !this.#seeker.busy) {
      this.#show(frame)
      this.#seeker.seek(frame, this.clip)
    }
    requestAnimationFrame(() => this.#goBackwards())
  }

  /** While the video rolls, its frames tell where it is; what is sought is known already. */
  #watchFrames() {
    const note = (_, { mediaTime }) => {
      if (this.rolling && !this.#seeker.busy) this.#show(frameAtTime(mediaTime, this.clip))
      this.#video.requestVideoFrameCallback(note)
    }
    this.#video.requestVideoFrameCallback(note)
  }
}
