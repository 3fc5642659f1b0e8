/** Workflows of the CogVideoX wrapper: which ones are converted, and what is said of it. Independent of the page. */

/** Milliseconds that a notice without details stays; one with details stays until it is closed. */
const SHORT = 6000

/** LiteGraph's mode of a node that never runs. */
const MUTED = 2

/**
 * Every graph of a workflow: itself and its subgraphs.
 * @param {ComfyWorkflow | null} workflow
 */
function graphs(workflow) {
  return [workflow, ...(workflow?.definitions?.subgraphs ?? [])]
}

/**
 * Whether a workflow has a node to convert: one that is replaced, or one that is to be muted and is not yet.
 * @param {ComfyWorkflow | null} workflow
 * @param {{become: string[], muted: string[]}} types
 * @param {(type: string) => boolean} isInstalled
 */
export function isForeign(workflow, types, isInstalled) {
  /** @type {(node: {type: string, mode?: number}) => boolean} */
  const waits = ({ type, mode }) => types.become.includes(type) || (types.muted.includes(type) && mode !== MUTED)
  return graphs(workflow).some((graph) =>
    (graph?.nodes ?? []).some((node) => node && waits(node) && !isInstalled(node.type)),
  )
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
