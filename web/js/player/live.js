/** The live stage: the preview of a run, its progress, and a button that cancels it. */

import { durationText } from "../parts/progress.js"
import { element } from "./elements.js"
import { afterEvent, IDLE } from "./live_state.js"

const NOTE_SECONDS = 8 // how long a note stays that says why a run ended without a video

export class LiveStage {
  #t
  #state = IDLE
  #nameOf
  #onChange
  /** @type {string | null} */
  #url = null
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #noteTimer
  #text = element("span", { class: "cvx-live-text" })
  #left = element("span", { class: "cvx-live-left" })
  #fill = element("div", { class: "cvx-fill" })
  #track = element("div", { class: "cvx-track" }, this.#fill)
  #cancel

  /**
   * @param {object} options
   * @param {import("../parts/strings.js").Translate} options.t
   * @param {(prompt: string) => void} options.cancel
   * @param {(node: string) => string} options.nameOf the title of a node by its execution id
   * @param {() => void} options.onChange
   */
  constructor({ t, cancel, nameOf, onChange }) {
    this.#t = t
    this.#nameOf = nameOf
    this.#onChange = onChange
    this.picture = element("img", { class: "cvx-picture cvx-live", alt: "" })
    this.#cancel = element("button", { type: "button", class: "cvx-button cvx-text" })
    this.#cancel.addEventListener("click", () => {
      if (this.#state.prompt !== null) cancel(this.#state.prompt)
      this.handle({ type: "cancel" })
    })
    const words = element("div", { class: "cvx-live-words", role: "status" }, this.#text, this.#left, this.#cancel)
    this.bar = element("div", { class: "cvx-live-bar" }, words, this.#track)
    this.bar.addEventListener("click", (event) => event.stopPropagation())
    this.#show()
  }

  /** Whether a run that ends in this player goes on now. */
  get running() {
    return this.#state.phase !== "idle"
  }

  /**
   * @param {import("./live_state.js").LiveEvent} event
   * @param {Blob | null} [blob] the picture of a preview
   */
  handle(event, blob = null) {
    const before = this.#state
    this.#state = afterEvent(before, event)
    if (blob) this.#setPicture(URL.createObjectURL(blob))
    if (!this.running || (this.#state.prompt !== before.prompt && !blob)) this.#setPicture(null)
    if (this.#state !== before || blob) this.#show()
  }

  /** Forget the run and release its last picture. */
  drop() {
    clearTimeout(this.#noteTimer)
    this.#state = IDLE
    this.#setPicture(null)
    this.#show()
  }

  /** @param {string | null} url */
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

  /**
   * @param {string | null} node
   * @param {number} step
   * @param {number} steps
   */
  #progressText(node, step, steps) {
    if (node === null || steps === 0) return this.#t("preparing")
    return this.#t("running", { name: this.#nameOf(node), step, steps })
  }
}
