/** The row of buttons below the picture, and the label next to the scrub bar. */

import { element, icon, iconButton, setButton, setPressed, setTitle } from "./elements.js"
import { frameText, rateText } from "./frames.js"
import { savedFile } from "./payload.js"

export class Controls {
  #t
  #frame = element("span", { class: "cvx-frame" })
  #rate = element("span", { class: "cvx-rate" })
  #buttons
  #save

  /** @param {{t: import("../parts/strings.js").Translate, actions: import("./keyboard.js").Actions}} options */
  constructor({ t, actions }) {
    this.#t = t
    this.#buttons = {
      play: iconButton("play", t("play"), actions.toggle),
      back: iconButton("back", t("back"), () => actions.step(-1)),
      forward: iconButton("forward", t("forward"), () => actions.step(1)),
      speed: element("button", { type: "button", class: "cvx-button cvx-text", on: { click: actions.nextSpeed } }),
      ending: iconButton("loop", t("loop"), actions.nextEnding),
      mute: iconButton("silence", t("unmute"), actions.toggleMute),
      compare: iconButton("compare", t("compare"), actions.nextCompare),
      settings: iconButton("settings", t("settings"), actions.toggleSettings),
      snapshot: iconButton("snapshot", t("snapshot"), actions.snapshot),
      fullscreen: iconButton("fullscreen", t("fullscreen"), actions.toggleFullscreen),
    }
    this.#save = element("a", { class: "cvx-button cvx-save" }, icon("save"), t("save"))
    setTitle(this.#save, t("saveHint"))
    const { play, back, forward, ...others } = this.#buttons
    const gap = element("span", { class: "cvx-gap" })
    const row = [play, back, forward, gap, ...Object.values(others), this.#save]
    this.element = element("div", { class: "cvx-controls" }, ...row)
    this.label = element("div", { class: "cvx-label" }, this.#frame, this.#rate)
  }

  /**
   * @param {number} frame
   * @param {import("./frames.js").Clip} clip
   */
  setFrame(frame, clip) {
    this.#frame.textContent = frameText(frame, clip)
  }

  /**
   * @param {import("./payload.js").Result} result
   * @param {string} url of the file that is saved
   */
  setResult(result, url) {
    const { fps, has_audio, file, files } = result
    this.#rate.textContent = this.#t("fps", { fps: rateText(fps) })
    this.#buttons.mute.hidden = !has_audio
    this.#save.href = url
    this.#save.download = savedFile(result).filename
    setTitle(this.#save, files > 1 ? this.#t("savePicturesHint", { folder: file.subfolder }) : this.#t("saveHint"))
  }

  /**
   * @param {object} state
   * @param {boolean} state.wanted whether the video is to play
   * @param {number} state.speed
   * @param {import("./frames.js").Ending} state.ending
   * @param {boolean} state.muted
   * @param {boolean} state.comparable whether there is something to compare with
   * @param {boolean} state.comparing
   */
  setState({ wanted, speed, ending, muted, comparable, comparing }) {
    const { play, speed: speedButton, ending: endingButton, mute, compare } = this.#buttons
    setButton(play, wanted ? "pause" : "play", this.#t(wanted ? "pause" : "play"))
    speedButton.textContent = `${speed}×`
    setTitle(speedButton, this.#t("speed", { speed }))
    setButton(endingButton, ending, this.#t(ending))
    setButton(mute, muted ? "silence" : "sound", this.#t(muted ? "unmute" : "mute"))
    compare.hidden = !comparable
    setPressed(compare, comparing)
  }

  /** @param {boolean} full */
  setFullscreen(full) {
    setTitle(this.#buttons.fullscreen, this.#t(full ? "leaveFullscreen" : "fullscreen"))
  }

  /** @param {boolean} open */
  setSettingsOpen(open) {
    setPressed(this.#buttons.settings, open)
  }
}
