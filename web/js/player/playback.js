/**
 * Playing one video by frames: play, step, scrub, speed, and what happens at the end.
 *
 * The video plays while playing is wanted, the video can be seen, and no pointer holds the scrub bar. It plays backwards
 * by seeking.
 */

import { backwardFrame, clampFrame, ENDINGS, frameAtTime, SPEEDS, stepFrame } from "./frames.js"
import { Seeker } from "./seeker.js"

export class Playback {
  /** @type {import("./frames.js").Clip} */
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
  /** @type {number | null} the time when playing backwards began, in milliseconds */
  #backwardsSince = null

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

  /** Whether they move forwards: the browser plays the video. */
  get rolling() {
    return this.playing && this.#backwardsSince === null
  }

  /**
   * Show another file from its first frame.
   * @param {string} url
   * @param {import("./frames.js").Clip} clip
   * @param {boolean} wanted whether it is to play
   */
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

  /** Release the file. */
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

  /**
   * Go to a frame; playing goes on from there if it is wanted.
   * @param {number} frame
   */
  seek(frame) {
    this.#backwardsSince = null
    if (!this.playing) this.#video.pause() // before seeking: a video that still plays would move on by a frame
    this.#show(clampFrame(frame, this.clip))
    this.#seeker.seek(this.frame, this.clip)
    this.#apply()
  }

  /**
   * Stop, and go forwards or back.
   * @param {number} frames negative: back
   */
  step(frames) {
    this.wanted = false
    this.seek(stepFrame(this.frame, frames, this.clip, this.ending !== "once"))
  }

  /**
   * Take over how another video was played.
   * @param {{speed: number, ending: import("./frames.js").Ending}} habits
   */
  takeOver({ speed, ending }) {
    this.speed = speed
    this.ending = ending
  }

  /**
   * Play faster or slower, from the frame that is shown.
   * @param {number} speed
   */
  setSpeed(speed) {
    const now = performance.now()
    if (this.#backwardsSince !== null) this.#backwardsSince = now - ((now - this.#backwardsSince) * this.speed) / speed
    this.speed = speed
    this.#apply()
  }

  /** @param {import("./frames.js").Ending} ending */
  setEnding(ending) {
    this.ending = ending
    this.#backwardsSince = null
    this.#apply()
  }

  /**
   * A video that cannot be seen does not play.
   * @param {boolean} seen
   */
  setSeen(seen) {
    this.#seen = seen
    this.#apply()
  }

  /**
   * Nor does it play while a pointer holds the scrub bar.
   * @param {boolean} held
   */
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
      // Playing is refused if the browser wants a click first, and interrupted if another file comes.
      if (video.paused) video.play().catch((error) => error.name === "NotAllowedError" && this.#giveUp())
    } else if (!video.paused) {
      video.pause()
      this.#settle()
    }
    this.#onChange()
  }

  /** Stop exactly on a frame, unless one is being sought: the picture may be newer than the last one reported. */
  #settle() {
    if (this.#seeker.busy) return
    this.#show(frameAtTime(this.#video.currentTime, this.clip))
    this.#seeker.seek(this.frame, this.clip)
  }

  #giveUp() {
    this.wanted = false
    this.#apply()
  }

  /** @param {number} frame */
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

  /** While the browser plays, each frame it shows says where the video is. A frame that is sought is known already. */
  #watchFrames() {
    /** @type {VideoFrameRequestCallback} */
    const note = (_, { mediaTime }) => {
      if (this.rolling && !this.#seeker.busy) this.#show(frameAtTime(mediaTime, this.clip))
      this.#video.requestVideoFrameCallback(note)
    }
    this.#video.requestVideoFrameCallback(note)
  }
}
