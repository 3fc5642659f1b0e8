/** The scrub bar: one place per frame, marks where the server found black or frozen frames. */

import { frameAtPlace, placeOfFrame } from "./frames.js"
import { element, setTitle } from "./elements.js"

const LEFT = 0

export class Timeline {
  #clip = { fps: 1, frames: 1 }
  #fill = element("div", { class: "cvx-fill" })
  #handle = element("div", { class: "cvx-handle" })
  #marks = element("div", { class: "cvx-marks" })
  #t

  /**
   * @param {{t: Function, seek: (frame: number) => void, hold: (held: boolean) => void}} options `hold`: a pointer is
   *   down on the bar, or no longer
   */
  constructor({ t, seek, hold }) {
    this.#t = t
    const track = element("div", { class: "cvx-track" }, this.#fill, this.#marks, this.#handle)
    const slider = { class: "cvx-timeline", role: "slider", tabindex: "0", "aria-valuemin": "1" }
    this.element = element("div", slider, track)
    setTitle(this.element, t("timeline"))
    this.#scrub(track, seek, hold)
  }

  /** @param {number[][]} marked runs of frames to mark */
  setClip(clip, marked) {
    this.#clip = clip
    this.element.setAttribute("aria-valuemax", clip.frames)
    this.#marks.replaceChildren(...marked.map(([first, last]) => this.#mark(first, last)))
  }

  setFrame(frame) {
    const place = `${placeOfFrame(frame, this.#clip) * 100}%`
    this.#fill.style.width = place
    this.#handle.style.left = place
    this.element.setAttribute("aria-valuenow", frame + 1)
    this.element.setAttribute("aria-valuetext", this.#t("frameOf", { frame: frame + 1, frames: this.#clip.frames }))
  }

  #mark(first, last) {
    const { frames } = this.#clip
    const made = element("div", { class: "cvx-mark" })
    made.style.left = `${(first / frames) * 100}%`
    made.style.width = `${((last - first + 1) / frames) * 100}%`
    return made
  }

  #scrub(track, seek, hold) {
    const bar = this.element
    const go = (event) => {
      const { left, width } = track.getBoundingClientRect() // in pixels of the window, as clientX: zoom is in both
      seek(frameAtPlace(event.clientX - left, width, this.#clip))
    }
    bar.addEventListener("pointerdown", (event) => {
      if (event.button !== LEFT) return
      bar.setPointerCapture(event.pointerId)
      hold(true)
      go(event)
    })
    bar.addEventListener("pointermove", (event) => bar.hasPointerCapture(event.pointerId) && go(event))
    bar.addEventListener("lostpointercapture", () => hold(false))
  }
}
