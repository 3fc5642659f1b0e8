/** Finding nodes by the ids that messages of the server carry. */

/**
 * The node of an execution id: "7", or "3:7" for node 7 in the subgraph of node 3, at any depth.
 * @param {object} graph the root graph
 * @param {string | number} executionId
 * @returns {object | null} null if there is no such node (any more)
 */
export function nodeOf(graph, executionId) {
  let node = null
  for (const id of String(executionId).split(":")) {
    node = graph?.getNodeById(id) ?? null
    graph = node?.subgraph
  }
  return node
}
