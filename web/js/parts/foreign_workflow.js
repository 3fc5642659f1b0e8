/** What the canvas does with a workflow of the CogVideoX wrapper, apart from the page it is shown on. */

/** Milliseconds that a notice stays which names nothing; one that does stays until it is closed. */
const GLANCE = 6000

/** LiteGraph's mode of a node that never runs. */
const MUTED = 2

/** Every graph of a workflow: itself and its subgraphs. */
function graphs(workflow) {
  return [workflow, ...(workflow?.definitions?.subgraphs ?? [])]
}

/**
 * Whether a workflow holds a node to carry over: one that becomes another, or that is to be muted and is not yet.
 * @param {object} workflow
 * @param {{become: string[], muted: string[]}} types
 * @param {(type: string) => boolean} isInstalled
 */
export function isForeign(workflow, types, isInstalled) {
  const waits = ({ type, mode } = {}) => types.become.includes(type) || (types.muted.includes(type) && mode !== MUTED)
  return graphs(workflow).some((graph) =>
    (graph?.nodes ?? []).some((node) => waits(node ?? undefined) && !isInstalled(node.type)),
  )
}

/**
 * Make one workflow what another is. The object stays, as the frontend goes on with it.
 * @param {object} workflow
 * @param {object} converted
 */
export function adopt(workflow, converted) {
  for (const key of Object.keys(workflow)) if (!(key in converted)) delete workflow[key]
  Object.assign(workflow, converted)
}

/**
 * What to tell of a conversion, as a toast of the frontend.
 * @param {string[]} sentences what is not carried over
 * @param {(key: string) => string} t words
 * @param {Error} [error] why there was no conversion
 */
export function notice(sentences, t, error) {
  if (error) {
    return {
      severity: "error",
      summary: t("notCarried"),
      detail: error.message,
    }
  }
  if (sentences.length === 0) {
    return {
      severity: "success",
      summary: t("carried"),
      detail: t("carriedHint"),
      life: GLANCE,
    }
  }
  const unique = [...new Set(sentences)]
  return {
    severity: "warn",
    summary: t("carriedExcept"),
    detail: unique.map((sentence) => `• ${sentence}`).join("\n"),
  }
}
