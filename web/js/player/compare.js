/**
 * Comparing the video with a reference or with another result: a wipe, side by side, or the difference.
 *
 * @typedef {{key: string, label: string, url: string, moves: boolean}} Source `moves`: it is a video, not a picture
 * @typedef {"off" | "wipe" | "side" | "difference"} Mode
 */

import { element, setPressed, setTitle } from "./elements.js"
import { Follower } from "./follower.js"
import { following } from "./frames.js"

/** @type {Mode[]} in the order in which the button offers them */
export const MODES = ["off", "wipe", "side", "difference"]

const STEP = 0.02 // of the width, by which an arrow key moves the divider
const ARROWS = ["ArrowLeft", "ArrowRight"]

export class Compare {
  /** @type {Mode} */
  mode = "off"
  #t
  #stage
  #layers
  #onChange
  /** @type {Source[]} */
  #sources = []
  /** @type {Source | null} */
  #source = null
  /** @type {HTMLVideoElement | HTMLImageElement | null} */
  #other = null
  /** @type {Follower | null} */
  #follower = null
  #wipe = 0.5
  #modes
  #sourceButton
  #divider
  #labels

  /**
   * @param {object} options
   * @param {import("../parts/strings.js").Translate} options.t
   * @param {HTMLElement} options.stage gets the bar and the divider
   * @param {HTMLElement} options.layers has the video and gets the other picture
   * @param {() => void} options.onChange
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
      on: { click: () => this.#nextSource() },
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

  /**
   * Set what the video can be compared with; the choice stays if it is still among them.
   * @param {Source[]} sources
   */
  setSources(sources) {
    this.#sources = sources
    const chosen = sources.find(({ key }) => key === this.#source?.key) ?? sources[0] ?? null
    if (!chosen) this.mode = "off"
    this.#choose(chosen)
  }

  /**
   * Compare with a source, by a wipe if no mode is on.
   * @param {string} key
   */
  setSource(key) {
    this.#choose(this.#sources.find((source) => source.key === key) ?? null)
    if (this.mode === "off") this.setMode("wipe")
  }

  /** @param {Mode} mode */
  setMode(mode) {
    this.mode = this.#source ? mode : "off"
    this.#show()
    this.#onChange()
  }

  nextMode() {
    this.setMode(following(MODES, this.mode))
  }

  /**
   * Let the other video follow.
   * @param {import("./playback.js").Playback} playback of the video
   * @param {number} seconds what it shows
   */
  follow(playback, seconds) {
    this.#follower?.follow(playback, seconds)
  }

  #nextSource() {
    if (this.#source) this.setSource(following(this.#sources, this.#source).key)
  }

  /** @param {Source | null} source */
  #choose(source) {
    if (source?.url !== this.#source?.url) this.#dropOther()
    this.#source = source
    this.#show()
    this.#onChange()
  }

  /** The other picture exists only while it is shown: it takes memory, and a decoder if it is a video. */
  #show() {
    const on = this.mode !== "off"
    if (!on) this.#dropOther()
    if (on && this.#source && !this.#other) this.#makeOther(this.#source)
    this.#stage.dataset.compare = this.mode
    this.#stage.style.setProperty("--cvx-wipe", String(this.#wipe))
    this.#divider.setAttribute("aria-valuenow", String(Math.round(this.#wipe * 100)))
    for (const [index, button] of this.#modes.entries()) setPressed(button, MODES[index] === this.mode)
    const label = this.#source?.label ?? ""
    this.#sourceButton.textContent = label
    this.#labels[1].textContent = label
    this.#sourceButton.hidden = this.#sources.length < 2
  }

  /** @param {Source} source */
  #makeOther({ url, moves }) {
    const attributes = { class: "cvx-picture cvx-other", src: url }
    if (moves) {
      const video = Object.assign(element("video", attributes), { muted: true, playsInline: true })
      this.#follower = new Follower(video)
      this.#other = video
    } else {
      this.#other = element("img", { ...attributes, alt: "" })
    }
    this.#layers.append(this.#other)
  }

  #dropOther() {
    if (!this.#other) return
    this.#other.remove()
    this.#other.removeAttribute("src")
    if (this.#other instanceof HTMLVideoElement) this.#other.load() // frees the decoder
    this.#other = null
    this.#follower = null
  }

  /** @param {Mode} mode */
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
    /** @param {number} wipe */
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
      if (!ARROWS.includes(event.key)) return
      const direction = event.key === "ArrowLeft" ? -1 : 1
      event.stopPropagation()
      event.preventDefault()
      move(this.#wipe + direction * STEP)
    })
  }
}
