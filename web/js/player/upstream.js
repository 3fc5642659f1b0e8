/**
 * Which nodes a player depends on, as execution ids ("7", or "3:7" inside of subgraph node 3). Works on litegraph's
 * objects, or on anything that looks like them; nothing here touches the page.
 */

const SUBGRAPH_INPUT = "-10" // the id that links from a subgraph's own inputs have as their origin

/**
 * @param {Object} rootGraph
 * @param {Object} node a node of it, or of a subgraph in it
 * @returns {Set<string>} a subgraph's id stands for all nodes inside of it
 */
export function upstreamIds(rootGraph, node) {
  const found = new Set()
  for (const place of placesOf(rootGraph, node.graph)) walk(node, place, found)
  return found
}

/** @returns {boolean} whether an execution id is one of `upstream`, or lies in a subgraph that is */
export function isUpstream(upstream, executionId) {
  const parts = String(executionId).split(":")
  return parts.some((_, index) => upstream.has(parts.slice(0, index + 1).join(":")))
}

/**
 * Where a graph is used: for each use, its execution prefix and the subgraph node with the place that node is in.
 * @returns {Array<{prefix: string, host: ?Object, outer: ?Object}>}
 */
function placesOf(graph, wanted, place = { prefix: "", host: null, outer: null }) {
  if (graph === wanted) return [place]
  return graph.nodes
    .filter((node) => node.isSubgraphNode?.())
    .flatMap((host) => placesOf(host.subgraph, wanted, { prefix: `${place.prefix}${host.id}:`, host, outer: place }))
}

function walk(node, place, found) {
  for (const input of node.inputs ?? []) follow(node.graph, input, place, found)
}

function follow(graph, input, place, found) {
  const link = input && graph.getLink(input.link)
  if (!link) return
  if (String(link.origin_id) === SUBGRAPH_INPUT) {
    follow(place.host.graph, place.host.inputs[link.origin_slot], place.outer, found)
    return
  }
  const origin = graph.getNodeById(link.origin_id)
  const id = `${place.prefix}${link.origin_id}`
  if (!origin || found.has(id)) return
  found.add(id)
  walk(origin, place, found)
}
