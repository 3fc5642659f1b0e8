/**
 * The widget of CogVideoX Video Player: made with its node, and informed of outputs and of what runs upstream.
 * The player itself is in player/view.js.
 */

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"
import { wasDisabled } from "./parts/former_names.js"
import { addElement, extend, hideOutput, MARGIN } from "./parts/node_widget.js"
import { nodeOf } from "./parts/nodes.js"
import { translator } from "./parts/strings.js"
import { keepSessions, locatorOf, sessionKey } from "./player/session.js"
import { isUpstream, upstreamIds } from "./player/upstream.js"
import { VideoPlayer } from "./player/view.js"

const NODE = "CogVideoXVideoPlayer"
const WIDTH = 420 // pixels of a new node
const HEIGHT = 632

/** @typedef {import("./player/live_state.js").LiveEvent} LiveEvent */

/** @type {Map<LGraphNode, VideoPlayer>} the players of the nodes that are on a graph now */
const players = new Map()
const sessionOf = keepSessions()

/**
 * Make the player of a new node.
 * @param {LGraphNode} node
 */
function addPlayer(node) {
  const t = translator(app.extensionManager.setting.get("Comfy.Locale"))
  const view = new VideoPlayer({
    t,
    address: (route) => api.apiURL(route),
    session: () => sessionOf(sessionKey(app.rootGraph, node)),
    cancel: (prompt) => api.fetchApi(`/jobs/${prompt}/cancel`, { method: "POST" }),
    nameOf: (id) => nodeOf(app.rootGraph, id)?.title ?? id,
    canvas: () => app.canvas,
    classic: () => !LiteGraph.vueNodesMode,
  })
  addElement(node, {
    name: "player",
    type: "cogvideox.player",
    label: t("player"),
    element: view.element,
    getMinHeight: () => view.minHeight + 2 * MARGIN,
  })
  hideOutput(node) // the player shows it
  node.setSize([Math.max(node.size[0], WIDTH), Math.max(node.size[1], HEIGHT)])
  return view
}

/**
 * Pass an event on to the players that depend on a node.
 * @param {string} node its execution id
 * @param {LiveEvent} event
 * @param {Blob | null} [blob] a preview
 */
function tell(node, event, blob = null) {
  for (const [own, view] of players) {
    if (isUpstream(upstreamIds(app.rootGraph, own), node)) view.live({ ...event, node }, blob)
  }
}

/** @param {LiveEvent} event */
function tellAll(event) {
  for (const view of players.values()) view.live(event)
}

/** Listen to the server's messages about runs. */
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
  for (const how of /** @type {const} */ (["success", "error", "interrupted"])) {
    api.addEventListener(`execution_${how}`, ({ detail }) => tellAll({ type: "end", prompt: detail.prompt_id, how }))
  }
}

if (!wasDisabled(app.extensionManager.setting, "cogvideox.player")) {
  app.registerExtension({
    name: "cogvideox.player",

    setup() {
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

    /** After a workflow is opened or its tab is chosen, its nodes are new, and what they showed is in `outputs`. */
    onNodeOutputsUpdated(outputs) {
      for (const [node, view] of players) view.show(outputs[locatorOf(app.rootGraph, node)], false)
    },
  })
}
