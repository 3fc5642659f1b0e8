/** The drawer with the settings that made the video. */

import { element, icon, iconButton, setTitle } from "./elements.js"
import { settingsRows, settingsText } from "./settings.js"

const COPIED_SECONDS = 1.5

export class Drawer {
  #t
  /** @type {import("./settings.js").Row[]} */
  #rows = []
  #list = element("dl", { class: "cvx-settings" })
  #copy
  #copyText

  /** @param {{t: import("../parts/strings.js").Translate, close: () => void}} options */
  constructor({ t, close }) {
    this.#t = t
    this.#copyText = element("span", {}, t("copy"))
    this.#copy = element(
      "button",
      { type: "button", class: "cvx-button cvx-text", on: { click: () => this.#copySettings() } },
      icon("copy"),
      this.#copyText,
    )
    setTitle(this.#copy, t("copy"))
    const head = element("div", { class: "cvx-drawer-head" }, this.#copy, iconButton("close", t("close"), close))
    this.element = element("div", { class: "cvx-drawer", role: "region", tabindex: "0", hidden: "" }, head, this.#list)
    this.element.setAttribute("aria-label", t("settings"))
    this.element.dataset.captureWheel = "true" // while it has the focus, the wheel scrolls it
    this.element.addEventListener("click", (event) => event.stopPropagation())
  }

  get open() {
    return !this.element.hidden
  }

  /** @param {boolean} open */
  setOpen(open) {
    this.element.hidden = !open
  }

  /** @param {import("./payload.js").Result} result */
  setResult(result) {
    this.#rows = settingsRows(result, this.#t)
    const cells = this.#rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])
    this.#list.replaceChildren(...cells)
  }

  async #copySettings() {
    await copyText(settingsText(this.#rows), this.#list)
    this.#copyText.textContent = this.#t("copied")
    setTimeout(() => {
      this.#copyText.textContent = this.#t("copy")
    }, COPIED_SECONDS * 1000)
  }
}

/**
 * Put text into the clipboard. A page that is not served securely cannot write to it, but can copy a selection.
 * @param {string} text
 * @param {HTMLElement} shown an element that shows the text
 */
async function copyText(text, shown) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text)
    return
  }
  getSelection()?.selectAllChildren(shown)
  document.execCommand("copy")
}
