/** The strip of the last results: a click on one shows it, its button compares the video with it. */

import { element, iconButton, setPressed, setTitle } from "./elements.js"

export class Strip {
  #t
  #show
  #compare

  /**
   * @param {object} options
   * @param {import("../parts/strings.js").Translate} options.t
   * @param {(id: string) => void} options.show by the id of an entry
   * @param {(id: string) => void} options.compare by the id of an entry
   */
  constructor({ t, show, compare }) {
    this.#t = t
    this.#show = show
    this.#compare = compare
    this.element = element("div", { class: "cvx-strip", role: "group", hidden: "" })
    this.element.setAttribute("aria-label", t("results"))
  }

  /** @param {import("./session.js").Session} session */
  setSession(session) {
    this.element.hidden = session.entries.length < 2
    const items = session.entries.map((entry) => this.#item(entry, entry.id === session.shown))
    this.element.replaceChildren(...items)
  }

  /**
   * @param {import("./session.js").Entry} entry
   * @param {boolean} shown
   */
  #item({ id, number, thumbnail }, shown) {
    const click = () => this.#show(id)
    const show = element("button", { type: "button", class: "cvx-result", on: { click } })
    if (thumbnail) show.append(element("img", { src: thumbnail, alt: "" }))
    show.append(element("span", { class: "cvx-number" }, String(number)))
    setPressed(show, shown)
    setTitle(show, this.#t("showResult", { number }))
    const item = element("div", { class: "cvx-item" }, show)
    if (!shown) item.append(iconButton("compare", this.#t("compareWith", { number }), () => this.#compare(id)))
    return item
  }
}
