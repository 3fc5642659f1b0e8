/** Finding nodes by the ids in messages of the server. */

/**
 * The node of an execution id: "7", or "3:7" for node 7 in the subgraph of node 3, at any depth.
 * @template {{subgraph?: {getNodeById: (id: string) => T | null}}} T
 * @param {{getNodeById: (id: string) => T | null} | undefined} graph the root graph
 * @param {string | number} executionId
 * @returns {T | null} null if there is no such node (any more)
 */
export function nodeOf(graph, executionId) {
  let node = null
  for (const id of String(executionId).split(":")) {
    node = graph?.getNodeById(id) ?? null
    graph = node?.subgraph
  }
  return node
}
