/** Workflows of the CogVideoX wrapper: which ones are converted, and what is said of it. Independent of the page. */

/** Milliseconds that a notice without details stays; one with details stays until it is closed. */
const SHORT = 6000

/** LiteGraph's mode of a node that never runs. */
const MUTED = 2

/**
 * @typedef {{type: string, mode?: number}} WorkflowNode
 */

/**
 * The nodes of a workflow and of its subgraphs that ComfyUI does not know.
 * @param {ComfyWorkflow | null} workflow
 * @param {(type: string) => boolean} isInstalled
 * @returns {WorkflowNode[]}
 */
export function unknownNodes(workflow, isInstalled) {
  const subgraphs = workflow?.definitions?.subgraphs ?? []
  const known = new Set(subgraphs.map(({ id }) => id)) // the types of nodes that are subgraphs
  /** @type {WorkflowNode[]} */
  const found = []
  for (const graph of [workflow, ...subgraphs]) {
    for (const node of graph?.nodes ?? []) {
      if (node && !known.has(node.type) && !isInstalled(node.type)) found.push(node)
    }
  }
  return found
}

/**
 * Whether one of the nodes is to be converted: one that is replaced, or one that is to be muted and is not yet.
 * @param {WorkflowNode[]} nodes
 * @param {{become: string[], muted: string[]}} types
 */
export function isForeign(nodes, types) {
  return nodes.some(({ type, mode }) => types.become.includes(type) || (types.muted.includes(type) && mode !== MUTED))
}

/**
 * Replace the contents of a workflow. The object stays the same, as the frontend goes on with it.
 * @param {Record<string, unknown>} workflow
 * @param {Record<string, unknown>} converted
 */
export function adopt(workflow, converted) {
  for (const key of Object.keys(workflow)) if (!(key in converted)) delete workflow[key]
  Object.assign(workflow, converted)
}

/**
 * What to say of a conversion, as a toast of the frontend.
 * @param {string[]} sentences one for everything that was not carried over
 * @param {import("./strings.js").Translate} t
 * @returns {ComfyToast}
 */
export function notice(sentences, t) {
  if (sentences.length === 0) {
    return { severity: "success", summary: t("carried"), detail: t("carriedHint"), life: SHORT }
  }
  const unique = [...new Set(sentences)]
  return {
    severity: "warn",
    summary: t("carriedExcept"),
    detail: unique.map((sentence) => `• ${sentence}`).join("\n"),
  }
}

/**
 * What to say of a conversion that failed.
 * @param {Error} error
 * @param {import("./strings.js").Translate} t
 * @returns {ComfyToast}
 */
export function failure(error, t) {
  return { severity: "error", summary: t("notCarried"), detail: error.message }
}

/**
 * What to say when it is unknown which nodes are to be converted.
 * @param {Error} error
 * @param {import("./strings.js").Translate} t
 * @returns {ComfyToast}
 */
export function unknownTypes(error, t) {
  return { severity: "warn", summary: t("notAsked"), detail: t("notAskedHint", { reason: error.message }) }
}
