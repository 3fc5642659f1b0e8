/**
 * Workflows of the CogVideoX wrapper open with our nodes in place of its own. The server converts them (nodes/foreign/),
 * so that the canvas and the API agree. Here a workflow is sent to the server before it is drawn, and a notice says what
 * was not carried over.
 */

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"
import { adopt, failure, isForeign, notice, unknownNodes, unknownTypes } from "./parts/foreign_workflow.js"
import { wasDisabled } from "./parts/former_names.js"
import { translator } from "./parts/strings.js"

const ROUTE = "/cogvideox/foreign"

/** @typedef {{become: string[], muted: string[]}} Types */

/** @type {Promise<Types> | undefined} */
let listed
let complained = false

/**
 * The types that the server replaces. They are asked for until it has answered once; until then nothing is converted,
 * which is said once.
 * @returns {Promise<Types>}
 */
function foreignTypes() {
  listed ??= request().catch((error) => {
    listed = undefined
    complain(error)
    return { become: [], muted: [] }
  })
  return listed
}

/** @param {Error} error */
function complain(error) {
  const toast = unknownTypes(error, words())
  console.warn(`CogVideoX: ${toast.summary}. ${toast.detail}`)
  if (!complained) app.extensionManager.toast.add(toast)
  complained = true
}

/**
 * The answer of the route.
 * @param {RequestInit} [options]
 */
async function request(options) {
  const answer = await api.fetchApi(ROUTE, options)
  if (answer.ok) return answer.json()
  const reason = await answer.json().catch(() => ({}))
  throw new Error(reason.error ?? `${answer.status} ${answer.statusText}`)
}

/** @param {string} type */
const isInstalled = (type) => type in LiteGraph.registered_node_types

/** The words of this pack in the user's language. */
function words() {
  return translator(app.extensionManager.setting.get("Comfy.Locale"))
}

if (!wasDisabled(app.extensionManager.setting, "cogvideox.foreign")) {
  app.registerExtension({
    name: "cogvideox.foreign",

    /**
     * Called before a workflow is put on the canvas; the frontend waits until it is converted.
     * @param {ComfyWorkflow} workflow changed in place, as the frontend goes on with this object
     */
    async beforeConfigureGraph(workflow) {
      const unknown = unknownNodes(workflow, isInstalled)
      if (unknown.length === 0 || !isForeign(unknown, await foreignTypes())) return
      const { toast } = app.extensionManager
      try {
        const body = JSON.stringify(workflow)
        const converted = await request({ method: "POST", body, headers: { "Content-Type": "application/json" } })
        adopt(workflow, converted.workflow)
        toast.add(notice(converted.sentences, words()))
      } catch (error) {
        toast.add(failure(/** @type {Error} */ (error), words()))
      }
    },
  })
}
