/** What the canvas must still get when the pointer is over an element on a node, and what it must not get. */

const MIDDLE = 1

/**
 * @param {HTMLElement} root
 * @param {() => {canvas: HTMLCanvasElement, read_only: boolean}} canvas ComfyUI's canvas
 * @param {() => boolean} classic whether the classic renderer is on; Nodes 2.0 hands on the wheel by itself
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
      canvas().canvas.dispatchEvent(new PointerEvent(event.type, event)) // which captures the pointer from here on
    }
    event.stopPropagation()
  })
  root.addEventListener("dragstart", (event) => event.preventDefault())
}

/** Whether the wheel belongs to a part of the element: one that scrolls and has the focus. */
function scrolls(target) {
  return target.closest('[data-capture-wheel="true"]')?.contains(document.activeElement) ?? false
}
