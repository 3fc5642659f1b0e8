/** The strip of the last results: a click shows one, the button on it compares with it. */

import { element, iconButton, setTitle } from "./elements.js"

export class Strip {
  #t
  #show
  #compare

  /** @param {{t: Function, show: (id: string) => void, compare: (id: string) => void}} options by the result's id */
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
    const items = session.entries.map((entry) => this.#item(entry, entry.result.id === session.shown))
    this.element.replaceChildren(...items)
  }

  #item({ number, result, thumbnail }, shown) {
    const click = () => this.#show(result.id)
    const show = element("button", { type: "button", class: "cvx-result", on: { click } })
    if (thumbnail) show.append(element("img", { src: thumbnail, alt: "" }))
    show.append(element("span", { class: "cvx-number" }, String(number)))
    show.setAttribute("aria-pressed", shown)
    setTitle(show, this.#t("showResult", { number }))
    const item = element("div", { class: "cvx-item" }, show)
    if (!shown) item.append(iconButton("compare", this.#t("compareWith", { number }), () => this.#compare(result.id)))
    return item
  }
}
