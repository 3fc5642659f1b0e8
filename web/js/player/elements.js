/**
 * Small pieces of the page: elements in one line, icons, buttons.
 *
 * @typedef {keyof typeof ICONS} IconName
 * @typedef {{[name: string]: any}} Attributes as in HTML; `on` holds event handlers by the names of events
 */

/** Icons as paths on a field of 16 by 16, filled with the colour of the text. */
const ICONS = {
  play: "M4 2.5v11l9-5.5z",
  pause: "M4 2.5h3v11H4zM9 2.5h3v11H9z",
  back: "M11.5 3v10L5 8zM3 3h1.6v10H3z",
  forward: "M4.5 3v10L11 8zM11.4 3H13v10h-1.6z",
  previous: "M10.5 2.5 12 4 8 8l4 4-1.5 1.5L5 8z",
  next: "M5.5 2.5 4 4l4 4-4 4 1.5 1.5L11 8z",
  loop: "M8 2.5a5.5 5.5 0 0 1 4.6 2.5V3.2H14V8H9.3V6.6h2.3A4 4 0 1 0 12 8.9l1.5.3A5.5 5.5 0 1 1 8 2.5z",
  pingpong: "M5 3.2 1.5 6.5 5 9.8V7.3h9V5.7H5zM11 6.8v2.5H2v1.6h9v2.5l3.5-3.3z",
  once: "M2 7.2h7.5V4l4 4-4 4V8.8H2zM13.2 3H15v10h-1.8z",
  sound:
    "M2 6v4h2.5L8 13V3L4.5 6zM10 5.2a4 4 0 0 1 0 5.6l-1-1a2.6 2.6 0 0 0 0-3.6zM12 3.2a7 7 0 0 1 0 9.6l-1-1a5.6 5.6 0 0 0 0-7.6z",
  silence: "M2 6v4h2.5L8 13V3L4.5 6zM9.7 6.7l1-1L12.2 7l1.4-1.3 1 1L13.2 8l1.4 1.3-1 1L12.2 9l-1.5 1.3-1-1L11.1 8z",
  fullscreen:
    "M2 2h4.5v1.6h-2.9v2.9H2zM9.5 2H14v4.5h-1.6V3.6H9.5zM2 9.5h1.6v2.9h2.9V14H2zM12.4 9.5H14V14H9.5v-1.6h2.9z",
  snapshot: "M5.5 3h5l1 1.6H14V13H2V4.6h2.5zM8 6a2.7 2.7 0 1 0 0 5.4A2.7 2.7 0 0 0 8 6z",
  save: "M7.2 2h1.6v6.2l2.3-2.3 1.1 1.1L8 11.2 3.8 7l1.1-1.1 2.3 2.3zM2.5 12.4h11V14h-11z",
  compare: "M2 3h5.2v10H2zM8.8 3H14v10H8.8zm1.4 1.4v7.2h2.4V4.4z",
  settings: "M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM7.2 4h1.6v1.7H7.2zM7.2 7h1.6v5H7.2z",
  copy: "M5 2h8v9h-1.6V3.6H5zM3 5h7v9H3z",
  close: "M4 2.9 8 6.9l4-4L13.1 4l-4 4 4 4-1.1 1.1-4-4-4 4L2.9 12l4-4-4-4z",
}

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Attributes} attributes
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, { on = {}, ...attributes } = {}, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  for (const [event, handler] of Object.entries(on))
    made.addEventListener(event, /** @type {EventListener} */ (handler))
  made.append(...children)
  return made
}

/** @param {IconName} name */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg"
  const picture = document.createElementNS(space, "svg")
  picture.setAttribute("viewBox", "0 0 16 16")
  picture.setAttribute("aria-hidden", "true")
  const path = document.createElementNS(space, "path")
  path.setAttribute("d", ICONS[name])
  picture.append(path)
  return picture
}

/**
 * A button with an icon.
 * @param {IconName} name
 * @param {string} title what the button does
 * @param {() => void} click
 */
export function iconButton(name, title, click) {
  const made = element("button", { type: "button", class: "cvx-button", on: { click } })
  setButton(made, name, title)
  return made
}

/**
 * Change a button's icon and title.
 * @param {HTMLButtonElement} button
 * @param {IconName} name
 * @param {string} title
 */
export function setButton(button, name, title) {
  button.replaceChildren(icon(name))
  setTitle(button, title)
}

/**
 * Name an element, for the pointer and for screen readers.
 * @param {HTMLElement} target
 * @param {string} title
 */
export function setTitle(target, title) {
  target.title = title
  target.setAttribute("aria-label", title)
}

/**
 * Show whether a button that stays down is down.
 * @param {HTMLElement} button
 * @param {boolean} pressed
 */
export function setPressed(button, pressed) {
  button.setAttribute("aria-pressed", String(pressed))
}

/**
 * Offer an address as a download.
 * @param {string} url
 * @param {string} name of the file
 */
export function download(url, name) {
  element("a", { href: url, download: name }).click()
}

/** Whether the user has asked for less movement on pages. */
export function prefersStillness() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches
}
