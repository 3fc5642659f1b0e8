/** A workflow of the CogVideoX wrapper on the canvas: when it is converted, how, and what is said. */

import assert from "node:assert/strict"
import test from "node:test"

import { adopt, failure, isForeign, notice, unknownNodes, unknownTypes } from "../../web/js/parts/foreign_workflow.js"
import { translator } from "../../web/js/parts/strings.js"

const TYPES = { become: ["CogVideoSampler", "CogVideoDecode"], muted: ["CogVideoControlNet"] }
const never = () => false
const t = translator("en")

function converts(workflow, isInstalled = never) {
  return isForeign(unknownNodes(workflow, isInstalled), TYPES)
}

test("a workflow with one of the types is one to carry over", () => {
  assert.ok(converts({ nodes: [{ type: "LoadImage" }, { type: "CogVideoDecode" }] }))
  assert.ok(!converts({ nodes: [{ type: "CogVideoXSampler" }] }))
})

test("subgraphs are looked into", () => {
  const subgraphs = [{ nodes: [] }, { nodes: [{ type: "CogVideoSampler" }] }]
  assert.ok(converts({ nodes: [{ type: "uuid" }], definitions: { subgraphs } }))
})

test("an installed node is left alone", () => {
  const workflow = { nodes: [{ type: "CogVideoSampler" }, { type: "CogVideoDecode" }] }
  assert.ok(converts(workflow, (type) => type === "CogVideoSampler"))
  assert.ok(!converts(workflow, () => true))
})

test("what was carried over before is not again: a muted rest stays as it is", () => {
  assert.ok(converts({ nodes: [{ type: "CogVideoControlNet", mode: 0 }] }))
  assert.ok(!converts({ nodes: [{ type: "CogVideoControlNet", mode: 2 }] }))
  assert.ok(converts({ nodes: [{ type: "CogVideoDecode", mode: 2 }] }))
})

test("a workflow of known nodes has none that the server must be asked about, with subgraphs too", () => {
  const subgraphs = [
    { id: "0c7d", nodes: [{ type: "KSampler" }, { type: "a1b2" }] },
    { id: "a1b2", nodes: [] },
  ]
  const workflow = { nodes: [{ type: "0c7d" }, { type: "LoadImage" }], definitions: { subgraphs } }
  assert.deepEqual(
    unknownNodes(workflow, (type) => ["KSampler", "LoadImage"].includes(type)),
    [],
  )
  assert.deepEqual(
    unknownNodes(workflow, (type) => type === "KSampler"),
    [{ type: "LoadImage" }],
  )
})

test("what is no workflow holds nothing", () => {
  for (const odd of [{}, { nodes: [null] }, { nodes: null, definitions: {} }, null]) assert.ok(!converts(odd))
})

test("the frontend's object becomes the converted workflow", () => {
  const workflow = { id: "a", nodes: [1], former: true }
  const same = workflow
  adopt(workflow, { id: "a", nodes: [2], links: [] })
  assert.deepEqual(same, { id: "a", nodes: [2], links: [] })
})

test("what is lost is named, each once, until it is closed", () => {
  const { severity, detail, life } = notice(["a: b", "c: d", "a: b"], t)
  assert.equal(severity, "warn")
  assert.equal(detail, "• a: b\n• c: d")
  assert.equal(life, undefined)
})

test("where nothing is lost, a glance is enough", () => {
  const { severity, life } = notice([], t)
  assert.equal(severity, "success")
  assert.ok(life > 0)
})

test("a conversion that failed says why", () => {
  const { severity, detail } = failure(new Error("no graph"), t)
  assert.equal(severity, "error")
  assert.equal(detail, "no graph")
})

test("a server that does not say what to convert is named with its answer", () => {
  const { severity, summary, detail, life } = unknownTypes(new Error("404 Not Found"), t)
  assert.equal(severity, "warn")
  assert.equal(summary, "Workflows of the CogVideoX wrapper open unchanged")
  assert.match(detail, /did not say which nodes to replace \(404 Not Found\)/)
  assert.equal(life, undefined)
})
