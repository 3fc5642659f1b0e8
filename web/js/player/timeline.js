/** The scrub bar: the same width for every frame, with marks on frames that the server found black or frozen. */

import { element, setTitle } from "./elements.js"
import { frameAtPosition, positionOfFrame } from "./frames.js"

const LEFT = 0

export class Timeline {
  /** @type {import("./frames.js").Clip} */
  #clip = { fps: 1, frames: 1 }
  #fill = element("div", { class: "cvx-fill" })
  #handle = element("div", { class: "cvx-handle" })
  #marks = element("div", { class: "cvx-marks" })
  #t

  /**
   * @param {object} options
   * @param {import("../parts/strings.js").Translate} options.t
   * @param {(frame: number) => void} options.seek
   * @param {(held: boolean) => void} options.hold a pointer holds the bar, or no longer
   */
  constructor({ t, seek, hold }) {
    this.#t = t
    const track = element("div", { class: "cvx-track" }, this.#fill, this.#marks, this.#handle)
    const slider = { class: "cvx-timeline", role: "slider", tabindex: "0", "aria-valuemin": "1" }
    this.element = element("div", slider, track)
    setTitle(this.element, t("timeline"))
    this.#scrub(track, seek, hold)
  }

  /**
   * @param {import("./frames.js").Clip} clip
   * @param {import("./payload.js").FrameRange[]} marked
   */
  setClip(clip, marked) {
    this.#clip = clip
    this.element.setAttribute("aria-valuemax", String(clip.frames))
    this.#marks.replaceChildren(...marked.map(([first, last]) => this.#mark(first, last)))
  }

  /** @param {number} frame */
  setFrame(frame) {
    const position = `${positionOfFrame(frame, this.#clip) * 100}%`
    this.#fill.style.width = position
    this.#handle.style.left = position
    this.element.setAttribute("aria-valuenow", String(frame + 1))
    this.element.setAttribute("aria-valuetext", this.#t("frameOf", { frame: frame + 1, frames: this.#clip.frames }))
  }

  /**
   * @param {number} first
   * @param {number} last
   */
  #mark(first, last) {
    const { frames } = this.#clip
    const made = element("div", { class: "cvx-mark" })
    made.style.left = `${(first / frames) * 100}%`
    made.style.width = `${((last - first + 1) / frames) * 100}%`
    return made
  }

  /**
   * @param {HTMLElement} track
   * @param {(frame: number) => void} seek
   * @param {(held: boolean) => void} hold
   */
  #scrub(track, seek, hold) {
    const bar = this.element
    /** @param {PointerEvent} event */
    const go = (event) => {
      const { left, width } = track.getBoundingClientRect() // in pixels of the window, as clientX: the zoom is in both
      seek(frameAtPosition(event.clientX - left, width, this.#clip))
    }
    bar.addEventListener("pointerdown", (event) => {
      if (event.button !== LEFT) return
      bar.setPointerCapture(event.pointerId)
      hold(true)
      go(event)
    })
    bar.addEventListener("pointermove", (event) => {
      if (bar.hasPointerCapture(event.pointerId)) go(event)
    })
    bar.addEventListener("lostpointercapture", () => hold(false))
  }
}
