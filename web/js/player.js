/**
 * The widget of CogVideoX Video Player: made with its node, told of outputs and of what runs upstream.
 * The player itself is in player/view.js.
 */

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"
import { cancelRun } from "./player/cancel.js"
import { keepSessions, locatorOf, sessionKey } from "./player/session.js"
import { translator } from "./parts/strings.js"
import { nodeOf } from "./parts/nodes.js"
import { isUpstream, upstreamIds } from "./player/upstream.js"
import { VideoPlayer } from "./player/view.js"

const NODE = "CogVideoXVideoPlayer"
const MARGIN = 10 // that the classic canvas leaves around a widget
const SIZE = [420, 560] // of a new node

/** @type {Map<Object, VideoPlayer>} the players of the nodes that are on a graph now */
const players = new Map()
const sessionOf = keepSessions()

function addPlayer(node) {
  const t = translator(app.extensionManager.setting.get("Comfy.Locale"))
  const view = new VideoPlayer({
    t,
    address: (route) => api.apiURL(route),
    session: () => sessionOf(sessionKey(app.rootGraph, node)),
    cancel: (prompt) => cancelRun(api, prompt),
    nameOf: (id) => nodeOf(app.rootGraph, id)?.title ?? id,
    canvas: () => app.canvas,
    classic: () => !LiteGraph.vueNodesMode,
  })
  const widget = node.addDOMWidget("player", "cogvideox.player", view.element, {
    serialize: false, // not in prompts
    hideOnZoom: false,
    getMinHeight: () => view.minHeight + 2 * MARGIN,
    getValue: () => "",
    setValue: () => {},
  })
  widget.serialize = false // not in workflows
  widget.label = t("player") // the side panel lists it
  // The classic canvas would keep the width that the side panel gives a widget, and draw it too narrow from then on.
  Object.defineProperty(widget, "width", { get: () => undefined, set: () => {} })
  // The video is shown here, not once more below.
  node.hideOutputImages = true // Nodes 2.0
  node.onDrawBackground = () => {} // classic
  node.setSize([Math.max(node.size[0], SIZE[0]), Math.max(node.size[1], SIZE[1])])
  return view
}

/** Call `more` after whatever a node's handler does already. */
function extend(node, handler, more) {
  const before = node[handler]
  node[handler] = function (...values) {
    const answer = before?.apply(this, values)
    more(...values)
    return answer
  }
}

/** Tell the players that depend on a node. @param {string} node its execution id @param {?Blob} blob a preview */
function tell(node, event, blob = null) {
  for (const [own, view] of players) {
    if (isUpstream(upstreamIds(app.rootGraph, own), node)) view.live({ ...event, node }, blob)
  }
}

function tellAll(event) {
  for (const view of players.values()) view.live(event)
}

function listen() {
  api.addEventListener("b_preview_with_metadata", ({ detail }) =>
    tell(detail.displayNodeId, { type: "preview", prompt: detail.jobId }, detail.blob),
  )
  api.addEventListener("progress", ({ detail }) =>
    tell(detail.node, { type: "progress", prompt: detail.prompt_id, step: detail.value, steps: detail.max }),
  )
  api.addEventListener("cogvideox.step", ({ detail }) =>
    tell(detail.display_node_id, {
      type: "step",
      prompt: detail.prompt_id,
      step: detail.step,
      steps: detail.steps,
      secondsLeft: detail.seconds_left,
    }),
  )
  api.addEventListener("reconnected", () => tellAll({ type: "lost" }))
  for (const how of ["success", "error", "interrupted"]) {
    api.addEventListener(`execution_${how}`, ({ detail }) => tellAll({ type: "end", prompt: detail.prompt_id, how }))
  }
}

function addStyles() {
  const link = document.createElement("link")
  link.rel = "stylesheet"
  link.href = new URL("./player/player.css", import.meta.url)
  document.head.append(link)
}

app.registerExtension({
  name: "CogVideoX.Player",

  setup() {
    addStyles()
    listen()
  },

  nodeCreated(node) {
    if (node.comfyClass !== NODE) return
    const view = addPlayer(node)
    extend(node, "onExecuted", (output) => view.show(output, true))
    extend(node, "onAdded", () => {
      players.set(node, view)
      view.attach()
    })
    extend(node, "onRemoved", () => {
      players.delete(node)
      view.detach()
    })
  },

  /** After a workflow has been opened or its tab chosen, its nodes are new; what they showed is here. */
  onNodeOutputsUpdated(outputs) {
    for (const [node, view] of players) view.show(outputs[locatorOf(app.rootGraph, node)], false)
  },
})
