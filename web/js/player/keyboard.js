/**
 * Keys of the player while it has the focus. Keys with Ctrl, Alt or Meta stay ComfyUI's; all others stop here, or
 * Delete would delete the node and `.` would move the canvas.
 */

/** What a key does, by `event.key`; letters in lower case. */
const KEYS = {
  " ": ["toggle"],
  k: ["toggle"],
  ",": ["step", -1],
  ArrowLeft: ["step", -1],
  ".": ["step", 1],
  ArrowRight: ["step", 1],
  Home: ["seek", 0],
  End: ["seek", Infinity],
  l: ["nextEnding"],
  m: ["toggleMute"],
  f: ["toggleFullscreen"],
  s: ["snapshot"],
  c: ["nextCompare"],
  i: ["toggleSettings"],
}
const FAST = 10 // frames per step with Shift
const PRESSES_BUTTON = [" ", "Enter"]
const PASSES = ["Tab", "Escape"] // the browser's: to leave the player, or fullscreen

/**
 * @param {{key: string, shiftKey: boolean, ctrlKey: boolean, altKey: boolean, metaKey: boolean}} event
 * @returns {?[string, ...any]} an action and its argument; null if the key does nothing
 */
export function actionOf(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return null
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key]
  if (!action) return null
  const [name, argument] = action
  return name === "step" && event.shiftKey ? [name, argument * FAST] : action
}

/** @returns {boolean} whether a key is for the player alone */
export function staysHere(event) {
  return !event.ctrlKey && !event.altKey && !event.metaKey && !PASSES.includes(event.key)
}

/**
 * @param {HTMLElement} root
 * @param {Object<string, (argument: any) => void>} actions by name
 */
export function listenToKeys(root, actions) {
  root.addEventListener("keydown", (event) => {
    if (staysHere(event)) event.stopPropagation()
    if (event.target.closest("button, a") && PRESSES_BUTTON.includes(event.key)) return
    const action = actionOf(event)
    if (!action) return
    event.preventDefault()
    const [name, argument] = action
    actions[name](argument)
  })
}
