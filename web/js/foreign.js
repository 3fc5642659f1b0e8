/**
 * Workflows of the CogVideoX wrapper open with our nodes in place of its own. The server does the rewriting
 * (nodes/foreign/), so that the canvas and the API agree; here the graph is sent there before it is drawn, and what is
 * not carried over is said.
 */

import { api } from "../../../scripts/api.js"
import { app } from "../../../scripts/app.js"

import { adopt, isForeign, notice } from "./parts/foreign_workflow.js"
import { translator } from "./parts/strings.js"

const ROUTE = "/cogvideox/foreign"

/** @type {Promise<{become: string[], muted: string[]}> | undefined} */
let listed

/** The types that the server rewrites, asked for until it has answered once; none where it does not. */
function foreignTypes() {
  listed ??= request().catch(() => {
    listed = undefined
    return { become: [], muted: [] }
  })
  return listed
}

/**
 * The answer of the route.
 * @param {RequestInit} [options]
 */
async function request(options) {
  const answer = await api.fetchApi(ROUTE, options)
  const data = await answer.json()
  if (!answer.ok) throw new Error(data.error)
  return data
}

/** @param {string} type */
const isInstalled = (type) => type in LiteGraph.registered_node_types

app.registerExtension({
  name: "CogVideoX.Foreign",

  /**
   * Called before a workflow is put on the canvas; waits for its conversion.
   * @param {object} workflow changed in place, as the frontend goes on with this object
   */
  async beforeConfigureGraph(workflow) {
    if (!isForeign(workflow, await foreignTypes(), isInstalled)) return
    const t = translator(app.extensionManager.setting.get("Comfy.Locale"))
    try {
      const body = JSON.stringify(workflow)
      const converted = await request({ method: "POST", body, headers: { "Content-Type": "application/json" } })
      adopt(workflow, converted.workflow)
      app.extensionManager.toast.add(notice(converted.sentences, t))
    } catch (error) {
      app.extensionManager.toast.add(notice([], t, error))
    }
  },
})
