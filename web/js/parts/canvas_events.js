/** Which events the canvas gets when the pointer is over an element on a node. */

const MIDDLE = 1

/**
 * @param {HTMLElement} root
 * @param {() => Pick<LGraphCanvas, "canvas" | "read_only">} canvas ComfyUI's canvas
 * @param {() => boolean} classic whether the classic renderer is on; Nodes 2.0 passes the wheel on by itself
 */
export function connectToCanvas(root, canvas, classic) {
  root.addEventListener("wheel", (event) => {
    if (!classic() || scrolls(event.target)) return
    event.preventDefault()
    event.stopPropagation()
    canvas().canvas.dispatchEvent(new WheelEvent(event.type, event))
  })
  root.addEventListener("pointerdown", (event) => {
    const pans = event.button === MIDDLE || canvas().read_only // read_only: the space key is down
    if (pans) {
      event.preventDefault()
      canvas().canvas.dispatchEvent(new PointerEvent(event.type, event)) // the canvas captures the pointer
    }
    event.stopPropagation()
  })
  root.addEventListener("dragstart", (event) => event.preventDefault())
}

/**
 * Whether the wheel scrolls a part of the element: one that can scroll and has the focus.
 * @param {EventTarget | null} target
 */
function scrolls(target) {
  if (!(target instanceof Element)) return false
  return target.closest('[data-capture-wheel="true"]')?.contains(document.activeElement) ?? false
}
