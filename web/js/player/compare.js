/**
 * Comparing the video with a reference or with another result: a wipe, side by side, or the difference.
 *
 * @typedef {{key: string, label: string, url: string, moves: boolean}} Source `moves`: a video, not a picture
 */

import { element, setTitle } from "./elements.js"
import { Follower } from "./follower.js"
import { following } from "./frames.js"

export const MODES = ["off", "wipe", "side", "difference"]

const STEP = 0.02 // of the width, for the arrow keys on the divider

export class Compare {
  mode = "off"
  #t
  #stage
  #layers
  #onChange
  #sources = []
  #source = null
  #other = null
  #follower = null
  #wipe = 0.5
  #modes
  #sourceButton
  #divider
  #labels

  /**
   * @param {{t: Function, stage: HTMLElement, layers: HTMLElement, onChange: () => void}} options `layers` holds the
   *   video; the other picture goes into it, the bar and the divider into `stage`
   */
  constructor({ t, stage, layers, onChange }) {
    this.#t = t
    this.#stage = stage
    this.#layers = layers
    this.#onChange = onChange
    this.#modes = MODES.map((mode) => this.#modeButton(mode))
    this.#sourceButton = element("button", {
      type: "button",
      class: "cvx-button cvx-text",
      on: { click: () => this.setSource(following(this.#sources, this.#source).key) },
    })
    this.#divider = element("div", { class: "cvx-divider", role: "slider", tabindex: "0" })
    setTitle(this.#divider, t("divider"))
    this.#labels = ["cvx-tag cvx-left", "cvx-tag cvx-right"].map((name) => element("span", { class: name }))
    this.#labels[0].textContent = t("thisVideo")
    stage.append(this.#divider, ...this.#labels, this.#makeBar())
    this.#drag()
    this.#show()
  }

  /** Whether there is anything to compare with. */
  get possible() {
    return this.#sources.length > 0
  }

  /** What can be compared with; the choice stays if it is still there. @param {Source[]} sources */
  setSources(sources) {
    this.#sources = sources
    const chosen = sources.find(({ key }) => key === this.#source?.key) ?? sources[0] ?? null
    if (!chosen) this.mode = "off"
    this.#choose(chosen)
  }

  /** Compare with the source of this key, if only by a wipe. */
  setSource(key) {
    this.#choose(this.#sources.find((source) => source.key === key))
    if (this.mode === "off") this.setMode("wipe")
  }

  setMode(mode) {
    this.mode = this.#source ? mode : "off"
    this.#show()
    this.#onChange()
  }

  nextMode() {
    this.setMode(following(MODES, this.mode))
  }

  /** Let the other video follow. @param {import("./playback.js").Playback} playback @param {number} seconds */
  follow(playback, seconds) {
    this.#follower?.follow(playback, seconds)
  }

  #choose(source) {
    if (source?.url !== this.#source?.url) this.#dropOther()
    this.#source = source
    this.#show()
    this.#onChange()
  }

  /** The other picture exists only while it is compared with: it costs memory, and a decoder if it moves. */
  #show() {
    const on = this.mode !== "off"
    if (!on) this.#dropOther()
    if (on && !this.#other) this.#makeOther()
    this.#stage.dataset.compare = this.mode
    this.#stage.style.setProperty("--cvx-wipe", this.#wipe)
    this.#divider.setAttribute("aria-valuenow", Math.round(this.#wipe * 100))
    this.#modes.forEach((button, index) => button.setAttribute("aria-pressed", MODES[index] === this.mode))
    this.#sourceButton.textContent = this.#labels[1].textContent = this.#source?.label ?? ""
    this.#sourceButton.hidden = this.#sources.length < 2
  }

  #makeOther() {
    const { url, moves } = this.#source
    this.#other = element(moves ? "video" : "img", { class: "cvx-picture cvx-other", src: url, alt: "" })
    if (moves) {
      Object.assign(this.#other, { muted: true, playsInline: true })
      this.#follower = new Follower(this.#other)
    }
    this.#layers.append(this.#other)
  }

  #dropOther() {
    if (!this.#other) return
    this.#other.remove()
    this.#other.removeAttribute("src")
    if (this.#follower) this.#other.load()
    this.#other = this.#follower = null
  }

  #modeButton(mode) {
    const words = mode === "off" ? "compareOff" : mode
    const button = element(
      "button",
      { type: "button", class: "cvx-button cvx-text", on: { click: () => this.setMode(mode) } },
      this.#t(words),
    )
    setTitle(button, this.#t(mode === "difference" ? "differenceHint" : words))
    return button
  }

  #makeBar() {
    const bar = element("div", { class: "cvx-compare-bar", role: "group" }, ...this.#modes, this.#sourceButton)
    bar.setAttribute("aria-label", this.#t("compare"))
    bar.addEventListener("click", (event) => event.stopPropagation())
    return bar
  }

  #drag() {
    const divider = this.#divider
    const move = (wipe) => {
      this.#wipe = Math.min(Math.max(wipe, 0), 1)
      this.#show()
    }
    divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId))
    divider.addEventListener("pointermove", (event) => {
      if (!divider.hasPointerCapture(event.pointerId)) return
      const { left, width } = this.#stage.getBoundingClientRect()
      move((event.clientX - left) / width)
    })
    divider.addEventListener("click", (event) => event.stopPropagation())
    divider.addEventListener("keydown", (event) => {
      const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key]
      if (!direction) return
      event.stopPropagation()
      event.preventDefault()
      move(this.#wipe + direction * STEP)
    })
  }
}
