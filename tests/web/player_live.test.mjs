/** The live stage's states, which nodes count, and stopping a run. */

import assert from "node:assert/strict"
import { test } from "node:test"

import { afterEvent, IDLE } from "../../web/js/player/live_state.js"
import { isUpstream, upstreamIds } from "../../web/js/player/upstream.js"

const run = (...events) => events.reduce(afterEvent, IDLE)
const step = (prompt, number) => {
  return { type: "step", prompt, node: "3", step: number, steps: 50, secondsLeft: 50 - number }
}

test("a preview alone starts the live stage; steps fill it in", () => {
  assert.equal(run({ type: "preview", prompt: "a", node: "3" }).phase, "running")
  const live = run({ type: "preview", prompt: "a", node: "3" }, step("a", 7))
  assert.deepEqual([live.step, live.steps, live.secondsLeft, live.node], [7, 50, 43, "3"])
})

test("progress keeps the countdown of its own node and ends another's", () => {
  const own = run(step("a", 7), { type: "progress", prompt: "a", node: "3", step: 8, steps: 50 })
  assert.deepEqual([own.step, own.secondsLeft], [8, 43])
  const decoding = run(step("a", 50), { type: "progress", prompt: "a", node: "4", step: 1, steps: 13 })
  assert.deepEqual([decoding.node, decoding.steps, decoding.secondsLeft], ["4", 13, null])
})

test("another prompt starts from the beginning", () => {
  const live = run(step("a", 30), { type: "cancel" }, { type: "preview", prompt: "b", node: "3" })
  assert.deepEqual([live.phase, live.prompt, live.step], ["running", "b", 0])
})

test("the result ends it, and a preview that comes late does not start it again", () => {
  const done = run(step("a", 50), { type: "result" })
  assert.equal(done.phase, "idle")
  assert.equal(afterEvent(done, { type: "preview", prompt: "a", node: "3" }).phase, "idle")
  assert.equal(afterEvent(done, { type: "preview", prompt: "b", node: "3" }).phase, "running")
})

test("a run that ends without a video says how, and only its own end counts", () => {
  const end = (how, prompt = "a") => run(step("a", 1), { type: "end", prompt, how })
  assert.deepEqual([end("interrupted").phase, end("interrupted").note], ["idle", "cancelled"])
  assert.equal(end("error").note, "failed")
  assert.equal(end("success").note, null)
  assert.equal(end("error", "b").phase, "running")
})

test("after a break in the connection nothing runs until more is heard of it", () => {
  const lost = run(step("a", 7), { type: "lost" })
  assert.equal(lost.phase, "idle")
  assert.equal(lost.note, null)
  assert.equal(afterEvent(lost, step("a", 8)).phase, "running")
})

test("cancel is for a run", () => {
  assert.equal(run({ type: "cancel" }), IDLE)
  assert.equal(run(step("a", 1), { type: "cancel" }).phase, "cancelling")
  assert.equal(run(step("a", 1), { type: "cancel" }, step("a", 2)).phase, "cancelling")
})

// ---- graphs: nodes as {id: [origins]}, an origin being a node's id or ["in", slot] for a subgraph's own input

function graphOf(nodes, subgraphs = {}) {
  const graph = { links: [], nodes: [] }
  graph.getLink = (link) => graph.links[link]
  graph.getNodeById = (id) => graph.nodes.find((node) => String(node.id) === String(id))
  for (const [id, origins] of Object.entries(nodes)) {
    const inputs = origins.map((origin) => {
      const inside = Array.isArray(origin)
      graph.links.push(inside ? { origin_id: -10, origin_slot: origin[1] } : { origin_id: origin, origin_slot: 0 })
      return { link: graph.links.length - 1 }
    })
    inputs.push({ link: null })
    const subgraph = subgraphs[id]
    const isSubgraphNode = () => Boolean(subgraph)
    graph.nodes.push({ id: Number(id), title: `node ${id}`, graph, inputs, subgraph, isSubgraphNode })
  }
  return graph
}

const ids = (graph, inner, id) => [...upstreamIds(graph, inner.getNodeById(id))].sort()

test("all nodes a player depends on are upstream, and no others", () => {
  const graph = graphOf({ 1: [], 2: ["1"], 3: ["2", "1"], 4: ["3"], 5: ["1"] })
  assert.deepEqual(ids(graph, graph, 4), ["1", "2", "3"])
})

test("a subgraph upstream counts for all nodes in it", () => {
  const graph = graphOf({ 1: [], 2: ["1"], 3: ["2"] }, { 2: graphOf({ 7: [["in", 0]] }) })
  const upstream = upstreamIds(graph, graph.getNodeById(3))
  assert.ok(isUpstream(upstream, "2:7"))
  assert.ok(isUpstream(upstream, "1"))
  assert.ok(!isUpstream(upstream, "3"))
  assert.ok(!isUpstream(upstream, "22:7"))
})

test("from inside of a subgraph it goes on outside, through the input that is linked", () => {
  const inner = graphOf({ 7: [["in", 1]], 8: ["7"] })
  const graph = graphOf({ 1: [], 2: [], 3: ["1", "2"] }, { 3: inner })
  assert.deepEqual(ids(graph, inner, 8), ["2", "3:7"])
})

test("a subgraph that is used twice has a player in each", () => {
  const inner = graphOf({ 7: [["in", 0]], 8: ["7"] })
  const graph = graphOf({ 1: [], 2: ["1"], 3: [] }, { 2: inner, 3: inner })
  assert.deepEqual(ids(graph, inner, 8), ["1", "2:7", "3:7"])
})
