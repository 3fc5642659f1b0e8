/**
 * Live previews that move, on the classic canvas.
 *
 * The server sends each preview of a CogVideoX model as an animated picture in ComfyUI's own preview message. Nodes 2.0
 * shows such a picture as it is. The classic canvas draws its first frame only, so here the same picture goes into an
 * <img> on the node, in place of the drawn one. The widget is made with a node's first moving preview: a sampler that
 * works for another model has none, and one made anew (by a switch of tabs, say) has it again with the next preview.
 */
import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

import { HEAD_BYTES, isAnimatedWebp } from "./parts/animated_webp.js"
import { connectToCanvas } from "./parts/canvas_events.js"
import { nodeOf } from "./parts/nodes.js"
import { progressText } from "./parts/progress.js"
import { translator } from "./parts/strings.js"

const NAME = "cogvideox_preview"
const DRAWN = "$$canvas-image-preview" // the frontend's own widget for a preview
const MIN_HEIGHT = 220 // pixels of the widget, as the frontend's own
const MARGIN = 10 // of these, on each side
const DELETING = ["Delete", "Backspace"]

/** @type {WeakMap<object, MovingPreview>} the previews on nodes */
const previews = new WeakMap()

app.registerExtension({
  name: "CogVideoX.Preview",
  setup() {
    api.addEventListener("b_preview_with_metadata", ({ detail }) => show(detail.displayNodeId, detail.blob))
    api.addEventListener("cogvideox.step", ({ detail }) => tell(detail.display_node_id, detail))
  },
})

/**
 * Show a preview on its node; one that does not move takes the moving one away.
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
 * Write a step's progress below the preview of its node, if there is one.
 * @param {string} id execution id of the node
 * @param {object} progress
 */
function tell(id, progress) {
  const node = nodeOf(app.rootGraph, id)
  const preview = node && previews.get(node)
  if (preview) preview.caption.textContent = progressText(progress, words())
}

/** The pack's words in the user's language. */
function words() {
  return translator(app.extensionManager.setting.get("Comfy.Locale"))
}

/** An <img> on a node, and a line below it. */
class MovingPreview {
  /** @param {object} node */
  constructor(node) {
    previews.set(node, this)
    this.node = node
    this.url = ""
    this.image = document.createElement("img")
    this.image.alt = words()("livePreview")
    Object.assign(this.image.style, { flex: "1", minHeight: "0", width: "100%", objectFit: "contain" })
    this.caption = document.createElement("div")
    Object.assign(this.caption.style, { font: "11px sans-serif", opacity: "0.7", padding: "4px 0 0" })
    this.element = document.createElement("div")
    Object.assign(this.element.style, {
      display: "flex",
      flexDirection: "column",
      minHeight: `${MIN_HEIGHT - 2 * MARGIN}px`,
      textAlign: "center",
      outline: "none",
    })
    this.element.append(this.image, this.caption)
    this.widget = this.#addWidget()
    this.#listen()
    this.#takeOver()
  }

  /**
   * @param {Blob} blob
   */
  show(blob) {
    const url = URL.createObjectURL(blob)
    this.image.src = url
    URL.revokeObjectURL(this.url) // what is shown until the new one is there has its data already
    this.url = url
  }

  /** Take the widget off the node, which may be about to leave the graph itself. */
  remove() {
    this.giveBack()
    if (this.node.widgets?.includes(this.widget)) this.node.removeWidget(this.widget)
    this.image.removeAttribute("src")
    URL.revokeObjectURL(this.url)
    if (previews.get(this.node) === this) previews.delete(this.node)
    this.node.setDirtyCanvas(true, true)
  }

  #addWidget() {
    const options = {
      serialize: false,
      hideOnZoom: false,
      margin: MARGIN,
      canvasOnly: true, // Nodes 2.0 has its own
      getMinHeight: () => MIN_HEIGHT,
      getValue: () => "",
      setValue: () => {},
    }
    const widget = this.node.addDOMWidget(NAME, "cogvideox.preview", this.element, options)
    widget.serialize = false
    widget.label = words()("livePreview")
    // The properties panel sets a width that would stay with the widget for good.
    Object.defineProperty(widget, "width", { get: () => undefined, set: () => {} })
    const { onRemoved } = this.node
    this.node.onRemoved = (...args) => {
      onRemoved?.apply(this.node, args)
      this.remove()
    }
    return widget
  }

  /** Zooming and panning go on over the picture; a key for deleting that is pressed on it is not for the node. */
  #listen() {
    this.element.tabIndex = 0
    connectToCanvas(
      this.element,
      () => app.canvas,
      () => true,
    )
    this.element.addEventListener("keydown", (event) => DELETING.includes(event.key) && event.stopPropagation())
  }

  /** Keep the drawn preview off the node while this one is on it. */
  #takeOver() {
    const { node } = this
    const hadOwn = Object.hasOwn(node, "onDrawBackground")
    const before = node.onDrawBackground
    const handler = (...args) => {
      if (previews.get(node) === this) {
        node.imgs = undefined // what it draws, if there is any
        const drawn = node.widgets.find((widget) => widget.name === DRAWN)
        if (drawn) node.removeWidget(drawn)
      }
      return before?.apply(node, args)
    }
    node.onDrawBackground = handler
    this.giveBack = () => {
      if (node.onDrawBackground !== handler) return // somebody has wrapped it, and it does nothing more
      if (hadOwn) node.onDrawBackground = before
      else delete node.onDrawBackground
    }
  }
}
