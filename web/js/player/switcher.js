/** Goes from clip to clip of a batch: which of them is shown, and a button to each side. A single clip needs none. */

import { element, iconButton } from "./elements.js"

export class Switcher {
  #t
  #place = element("span", { class: "cvx-place" })

  /** @param {{t: import("../parts/strings.js").Translate, go: (clips: number) => void}} options `go`: on, or back */
  constructor({ t, go }) {
    this.#t = t
    const back = iconButton("previous", t("previousClip"), () => go(-1))
    const on = iconButton("next", t("nextClip"), () => go(1))
    this.element = element("div", { class: "cvx-switcher", role: "group", hidden: "" }, back, this.#place, on)
    this.element.setAttribute("aria-label", t("clips"))
  }

  /** @param {import("./session.js").Entry} entry */
  setEntry({ clip, clips }) {
    this.element.hidden = clips.length < 2
    this.#place.textContent = `${clip + 1} / ${clips.length}`
    this.#place.setAttribute("aria-label", this.#t("clipOf", { clip: clip + 1, clips: clips.length }))
  }
}
