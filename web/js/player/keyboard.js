/**
 * Keys of the player while it has the focus. Keys with Ctrl, Alt or Meta are left to ComfyUI. No other key reaches it:
 * Delete would delete the node, and `.` would move the canvas.
 *
 * @typedef {object} Actions what the player can do
 * @property {() => void} toggle play or pause
 * @property {(frames: number) => void} step
 * @property {(frame: number) => void} seek
 * @property {(clips: number) => void} switchClip to another clip of the batch
 * @property {() => void} nextSpeed
 * @property {() => void} nextEnding
 * @property {() => void} nextCompare
 * @property {() => void} toggleMute
 * @property {() => void} toggleSettings
 * @property {() => void} toggleFullscreen
 * @property {() => void} snapshot
 *
 * @typedef {[name: keyof Actions, argument?: number]} Action
 * @typedef {Pick<KeyboardEvent, "key" | "shiftKey" | "ctrlKey" | "altKey" | "metaKey">} Key
 */

/**
 * What a key does, by `event.key`; letters in lower case.
 * @type {Record<string, Action>}
 */
const KEYS = {
  " ": ["toggle"],
  k: ["toggle"],
  ",": ["step", -1],
  ArrowLeft: ["step", -1],
  ".": ["step", 1],
  ArrowRight: ["step", 1],
  ArrowUp: ["switchClip", -1],
  ArrowDown: ["switchClip", 1],
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
const PASSES = ["Tab", "Escape"] // left to the browser: they leave the player, or fullscreen

/**
 * @param {Key} event
 * @returns {Action | null} null if the key does nothing
 */
export function actionOf(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return null
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key]
  if (!action) return null
  const [name, argument = 0] = action
  return name === "step" && event.shiftKey ? [name, argument * FAST] : action
}

/**
 * Whether a key is kept from ComfyUI.
 * @param {Key} event
 */
export function staysHere(event) {
  return !event.ctrlKey && !event.altKey && !event.metaKey && !PASSES.includes(event.key)
}

/**
 * @param {HTMLElement} root
 * @param {Actions} actions
 */
export function listenToKeys(root, actions) {
  root.addEventListener("keydown", (event) => {
    if (staysHere(event)) event.stopPropagation()
    const onButton = event.target instanceof Element && event.target.closest("button, a")
    if (onButton && PRESSES_BUTTON.includes(event.key)) return
    const action = actionOf(event)
    if (!action) return
    event.preventDefault()
    const [name, argument = 0] = action
    actions[name](argument)
  })
}
