/**
 * Live previews that move, on the classic canvas.
 *
 * The server sends each preview of a CogVideoX model as an animated picture in ComfyUI's own preview message. Nodes 2.0
 * shows such a picture as it is. The classic canvas draws its first frame only, so this script puts the same picture
 * into an <img> on the node, in place of the drawn one. The widget is made with the first moving preview of a node: a
 * sampler that runs another model has none, and one that was made again (by a switch of tabs, for example) gets it back
 * with the next preview.
 */

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"
import { HEAD_BYTES, isAnimatedWebp } from "./parts/animated_webp.js"
import { connectToCanvas } from "./parts/canvas_events.js"
import { wasDisabled } from "./parts/former_names.js"
import { addElement, CANVAS_PREVIEW, extend, MARGIN } from "./parts/node_widget.js"
import { nodeOf } from "./parts/nodes.js"
import { progressText } from "./parts/progress.js"
import { translator } from "./parts/strings.js"

const MIN_HEIGHT = 220 // pixels of the widget, as of the frontend's own
const DELETING = ["Delete", "Backspace"]

/** @type {WeakMap<LGraphNode, MovingPreview>} the previews on nodes */
const previews = new WeakMap()

if (!wasDisabled(app.extensionManager.setting, "cogvideox.preview")) {
  app.registerExtension({
    name: "cogvideox.preview",
    setup() {
      api.addEventListener("b_preview_with_metadata", ({ detail }) => show(detail.displayNodeId, detail.blob))
      api.addEventListener("cogvideox.step", ({ detail }) => describe(detail.display_node_id, detail))
    },
  })
}

/**
 * Show a preview on its node. One that does not move is left to the frontend.
 * @param {string} id execution id of the node
 * @param {Blob} blob
 */
async function show(id, blob) {
  if (LiteGraph.vueNodesMode) return
  const moves = isAnimatedWebp(new Uint8Array(await blob.slice(0, HEAD_BYTES).arrayBuffer()))
  const node = nodeOf(app.rootGraph, id)
  if (!node) return
  if (!moves) previews.get(node)?.remove()
  else (previews.get(node) ?? new MovingPreview(node)).show(blob)
}

/**
 * Write the progress of a step below the preview of its node, if there is one.
 * @param {string} id execution id of the node
 * @param {ComfyMessages["cogvideox.step"]} progress
 */
function describe(id, progress) {
  const node = nodeOf(app.rootGraph, id)
  const preview = node && previews.get(node)
  if (preview) preview.caption.textContent = progressText(progress, words())
}

/** The words of this pack in the user's language. */
function words() {
  return translator(app.extensionManager.setting.get("Comfy.Locale"))
}

/** An <img> on a node, and a line of text below it. */
class MovingPreview {
  #node
  #url = ""
  #image = document.createElement("img")
  #element = document.createElement("div")
  #widget
  caption = document.createElement("div")

  /** @param {LGraphNode} node */
  constructor(node) {
    previews.set(node, this)
    this.#node = node
    this.#image.alt = words()("livePreview")
    Object.assign(this.#image.style, { flex: "1", minHeight: "0", width: "100%", objectFit: "contain" })
    Object.assign(this.caption.style, { font: "11px sans-serif", opacity: "0.7", padding: "4px 0 0" })
    Object.assign(this.#element.style, {
      display: "flex",
      flexDirection: "column",
      minHeight: `${MIN_HEIGHT - 2 * MARGIN}px`,
      textAlign: "center",
      outline: "none",
    })
    this.#element.append(this.#image, this.caption)
    this.#widget = this.#addWidget()
    this.#listen()
  }

  /** @param {Blob} blob */
  show(blob) {
    const url = URL.createObjectURL(blob)
    this.#image.src = url
    URL.revokeObjectURL(this.#url) // the picture that is still shown has been loaded
    this.#url = url
  }

  /** Take the widget off the node, which may be about to leave the graph itself. */
  remove() {
    if (this.#node.widgets?.includes(this.#widget)) this.#node.removeWidget(this.#widget)
    this.#image.removeAttribute("src")
    URL.revokeObjectURL(this.#url)
    if (previews.get(this.#node) === this) previews.delete(this.#node)
    this.#node.setDirtyCanvas(true, true)
  }

  /** Put the widget where the frontend has its own; one that is there already goes. */
  #addWidget() {
    const node = this.#node
    const drawn = node.widgets?.find(({ name }) => name === CANVAS_PREVIEW)
    if (drawn) node.removeWidget(drawn)
    extend(node, "onRemoved", () => this.remove())
    return addElement(node, {
      name: CANVAS_PREVIEW,
      type: "cogvideox.preview",
      label: words()("livePreview"),
      element: this.#element,
      getMinHeight: () => MIN_HEIGHT,
      canvasOnly: true, // Nodes 2.0 shows the picture itself
    })
  }

  /** Zooming and panning go on over the picture. A key for deleting that is pressed on it does not delete the node. */
  #listen() {
    this.#element.tabIndex = 0
    connectToCanvas(
      this.#element,
      () => app.canvas,
      () => true,
    )
    this.#element.addEventListener("keydown", (event) => {
      if (DELETING.includes(event.key)) event.stopPropagation()
    })
  }
}
