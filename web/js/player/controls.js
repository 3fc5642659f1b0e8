/** The row of buttons below the picture, and the label beside the scrub bar. */

import { element, icon, iconButton, setButton, setTitle } from "./elements.js"
import { frameText, rateText } from "./frames.js"

export class Controls {
  #t
  #frame = element("span", { class: "cvx-frame" })
  #rate = element("span", { class: "cvx-rate" })
  #buttons
  #save

  /** @param {{t: Function, actions: Object<string, Function>}} options actions by the names of keyboard.js */
  constructor({ t, actions }) {
    this.#t = t
    const button = (name, title, action) => iconButton(name, title, () => action())
    this.#buttons = {
      play: button("play", t("play"), actions.toggle),
      back: button("back", t("back"), () => actions.step(-1)),
      forward: button("forward", t("forward"), () => actions.step(1)),
      speed: element("button", { type: "button", class: "cvx-button cvx-text", on: { click: actions.nextSpeed } }),
      ending: button("loop", t("loop"), actions.nextEnding),
      mute: button("silence", t("unmute"), actions.toggleMute),
      compare: button("compare", t("compare"), actions.nextCompare),
      settings: button("settings", t("settings"), actions.toggleSettings),
      snapshot: button("snapshot", t("snapshot"), actions.snapshot),
      fullscreen: button("fullscreen", t("fullscreen"), actions.toggleFullscreen),
    }
    this.#save = element("a", { class: "cvx-button cvx-save" }, icon("save"), t("save"))
    setTitle(this.#save, t("saveHint"))
    const { play, back, forward, ...others } = this.#buttons
    const gap = element("span", { class: "cvx-gap" })
    const row = [play, back, forward, gap, ...Object.values(others), this.#save]
    this.element = element("div", { class: "cvx-controls" }, ...row)
    this.label = element("div", { class: "cvx-label" }, this.#frame, this.#rate)
  }

  setFrame(frame, clip) {
    this.#frame.textContent = frameText(frame, clip)
  }

  /** @param {import("./payload.js").Result} result @param {string} url of its file */
  setResult(result, url) {
    this.#rate.textContent = this.#t("fps", { fps: rateText(result.fps) })
    this.#buttons.mute.hidden = !result.has_audio
    this.#save.href = url
    this.#save.download = result.file.filename
  }

  /**
   * @param {{wanted: boolean, speed: number, ending: string, muted: boolean, comparable: boolean, comparing: boolean}}
   *   state
   */
  setState({ wanted, speed, ending, muted, comparable, comparing }) {
    const { play, speed: speedButton, ending: endingButton, mute, compare } = this.#buttons
    setButton(play, wanted ? "pause" : "play", this.#t(wanted ? "pause" : "play"))
    speedButton.textContent = `${speed}×`
    setTitle(speedButton, this.#t("speed", { speed }))
    setButton(endingButton, ending, this.#t(ending))
    setButton(mute, muted ? "silence" : "sound", this.#t(muted ? "unmute" : "mute"))
    compare.hidden = !comparable
    compare.setAttribute("aria-pressed", comparing)
  }

  setFullscreen(full) {
    setTitle(this.#buttons.fullscreen, this.#t(full ? "leaveFullscreen" : "fullscreen"))
  }

  setSettingsOpen(open) {
    this.#buttons.settings.setAttribute("aria-pressed", open)
  }
}
