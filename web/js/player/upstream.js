/**
 * Which nodes a player depends on, as execution ids ("7", or "3:7" inside of subgraph node 3). Independent of the page:
 * works on litegraph's objects, or on anything with the same members.
 *
 * @typedef {Pick<LGraph, "getLink"> & {nodes: GraphNode[], getNodeById: (id: string | number) => GraphNode | null}} Graph
 *
 * @typedef {object} GraphNode
 * @property {string | number} id
 * @property {Graph} [graph]
 * @property {Graph} [subgraph]
 * @property {LGraphNode["inputs"]} inputs
 * @property {() => boolean} isSubgraphNode
 *
 * @typedef {{prefix: string, host: GraphNode | null, outer: Use | null}} Use one use of a graph: the prefix of execution
 *   ids in it, the subgraph node that uses it, and the use of the graph which that node is in
 */

const SUBGRAPH_INPUT = "-10" // the origin of links that come from a subgraph's own inputs

/** @type {Use} */
const ROOT = { prefix: "", host: null, outer: null }

/**
 * @param {Graph} rootGraph
 * @param {GraphNode} node a node of it, or of a subgraph in it
 * @returns {Set<string>} ids; that of a subgraph node stands for all nodes in the subgraph
 */
export function upstreamIds(rootGraph, node) {
  /** @type {Set<string>} */
  const found = new Set()
  for (const use of usesOf(rootGraph, node.graph)) walk(node, use, found)
  return found
}

/**
 * Whether an execution id is one of `upstream`, or is in a subgraph that is.
 * @param {Set<string>} upstream
 * @param {string | number} executionId
 */
export function isUpstream(upstream, executionId) {
  const parts = String(executionId).split(":")
  return parts.some((_, index) => upstream.has(parts.slice(0, index + 1).join(":")))
}

/**
 * Every use of a graph.
 * @param {Graph | undefined} graph where to look
 * @param {Graph | undefined} wanted
 * @returns {Use[]}
 */
function usesOf(graph, wanted, use = ROOT) {
  if (!graph) return []
  if (graph === wanted) return [use]
  return graph.nodes
    .filter((node) => node.isSubgraphNode())
    .flatMap((host) => usesOf(host.subgraph, wanted, { prefix: `${use.prefix}${host.id}:`, host, outer: use }))
}

/**
 * @param {GraphNode} node
 * @param {Use} use
 * @param {Set<string>} found
 */
function walk(node, use, found) {
  for (const input of node.inputs) follow(node.graph, input, use, found)
}

/**
 * @param {Graph | undefined} graph
 * @param {{link?: number | null} | undefined} input
 * @param {Use} use
 * @param {Set<string>} found
 */
function follow(graph, input, use, found) {
  const link = input && graph?.getLink(input.link)
  if (!link) return
  if (String(link.origin_id) === SUBGRAPH_INPUT) {
    const { host, outer } = use
    if (host && outer) follow(host.graph, host.inputs[link.origin_slot], outer, found)
    return
  }
  const origin = graph?.getNodeById(link.origin_id)
  const id = `${use.prefix}${link.origin_id}`
  if (!origin || found.has(id)) return
  found.add(id)
  walk(origin, use, found)
}
