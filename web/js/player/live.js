/** The live stage: the sampler's preview, how far it is, and a way to stop it. */

import { element } from "./elements.js"
import { durationText } from "../parts/progress.js"
import { IDLE, afterEvent } from "./live_state.js"

const NOTE_SECONDS = 8 // how long it is said that a run ended without a video

export class LiveStage {
  #t
  #state = IDLE
  #nameOf
  #onChange
  #url = null
  #noteTimer = null
  #text = element("span", { class: "cvx-live-text" })
  #left = element("span", { class: "cvx-live-left" })
  #fill = element("div", { class: "cvx-fill" })
  #track = element("div", { class: "cvx-track" }, this.#fill)
  #cancel

  /**
   * @param {{t: Function, cancel: (prompt: string) => void, nameOf: (node: string) => string, onChange: () => void}}
   *   options `nameOf`: the title of a node by its execution id
   */
  constructor({ t, cancel, nameOf, onChange }) {
    this.#t = t
    this.#nameOf = nameOf
    this.#onChange = onChange
    this.picture = element("img", { class: "cvx-picture cvx-live", alt: "" })
    this.#cancel = element("button", { type: "button", class: "cvx-button cvx-text" })
    this.#cancel.addEventListener("click", () => {
      cancel(this.#state.prompt)
      this.handle({ type: "cancel" })
    })
    const words = element("div", { class: "cvx-live-words", role: "status" }, this.#text, this.#left, this.#cancel)
    this.bar = element("div", { class: "cvx-live-bar" }, words, this.#track)
    this.bar.addEventListener("click", (event) => event.stopPropagation())
    this.#show()
  }

  /** Whether a run that leads here is on its way. */
  get running() {
    return this.#state.phase !== "idle"
  }

  /** @param {Object} event of live_state.js @param {?Blob} blob the picture of a preview */
  handle(event, blob = null) {
    const before = this.#state
    this.#state = afterEvent(before, event)
    if (blob) this.#setPicture(URL.createObjectURL(blob))
    if (!this.running || (this.#state.prompt !== before.prompt && !blob)) this.#setPicture(null)
    if (this.#state !== before || blob) this.#show()
  }

  /** Let go of the last picture. */
  drop() {
    clearTimeout(this.#noteTimer)
    this.#state = IDLE
    this.#setPicture(null)
    this.#show()
  }

  #setPicture(url) {
    if (this.#url) URL.revokeObjectURL(this.#url)
    this.#url = url
    if (url) this.picture.src = url
    else this.picture.removeAttribute("src")
  }

  #show() {
    const { phase, node, step, steps, secondsLeft, note } = this.#state
    clearTimeout(this.#noteTimer)
    if (note) this.#noteTimer = setTimeout(() => this.drop(), NOTE_SECONDS * 1000)
    this.picture.hidden = !this.#url
    this.bar.hidden = phase === "idle" && !note
    this.#cancel.hidden = this.#track.hidden = phase === "idle"
    this.#cancel.disabled = phase === "cancelling"
    this.#cancel.textContent = this.#t(phase === "cancelling" ? "cancelling" : "cancel")
    this.#text.textContent = note ? this.#t(note) : this.#progressText(node, step, steps)
    this.#left.textContent = secondsLeft === null ? "" : this.#t("left", { time: durationText(secondsLeft) })
    this.#fill.style.width = `${steps ? (step / steps) * 100 : 0}%`
    this.#onChange()
  }

  #progressText(node, step, steps) {
    return steps ? this.#t("running", { name: this.#nameOf(node), step, steps }) : this.#t("preparing")
  }
}
