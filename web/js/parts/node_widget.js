/**
 * An element of ours on a node, in place of what the frontend shows there.
 *
 * Whatever this pack needs of the frontend beyond its documented API is in this file, each with its reason. Nothing of
 * the frontend's own is replaced: a name, an option and two flags that it looks at are set.
 */

/** Pixels that the classic canvas leaves free on each side of a widget. */
export const MARGIN = 10

/**
 * The classic canvas draws a live preview into a widget of this name, and adds one to a node only if the node has no
 * widget of the name yet. A widget of ours with this name is therefore shown instead of the drawn preview.
 */
export const CANVAS_PREVIEW = "$$canvas-image-preview"

/**
 * Put an element on a node. It takes part neither in prompts nor in saved workflows.
 * @param {LGraphNode} node
 * @param {object} options
 * @param {string} options.name of the widget, unique on its node
 * @param {string} options.type of the widget
 * @param {string} options.label what the side panel calls it
 * @param {HTMLElement} options.element
 * @param {() => number} options.getMinHeight in pixels, margins included
 * @param {boolean} [options.canvasOnly] Nodes 2.0 leaves it out
 * @returns {NodeWidget}
 */
export function addElement(node, { name, type, label, element, getMinHeight, canvasOnly = false }) {
  const widget = node.addDOMWidget(name, type, element, {
    serialize: false, // not in prompts
    hideOnZoom: false,
    margin: MARGIN,
    canvasOnly,
    getMinHeight,
    getValue: () => "",
    setValue: () => {},
    // The side panel draws the widget too, and before that sets a width which the classic canvas would then keep.
    // Without a width, a widget is as wide as its node.
    onDraw: () => {
      widget.width = undefined
    },
  })
  widget.serialize = false // not in saved workflows
  widget.label = label
  return widget
}

/**
 * Keep the frontend from showing a node's output below the widgets.
 * @param {LGraphNode} node
 */
export function hideOutput(node) {
  node.hideOutputImages = true // asked by Nodes 2.0
  node.isLoading = true // asked by the classic canvas, which loads no output while another one loads
}

/**
 * Call `more` after whatever a node's handler already does.
 * @param {LGraphNode} node
 * @param {"onAdded" | "onExecuted" | "onRemoved"} handler
 * @param {LGraphHandler} more
 */
export function extend(node, handler, more) {
  const before = node[handler]
  node[handler] = function (...values) {
    const answer = before?.apply(this, values)
    more.apply(this, values)
    return answer
  }
}
