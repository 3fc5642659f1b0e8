/** What moving previews are told by, without a browser. */
import assert from "node:assert/strict"
import { test } from "node:test"

import { HEAD_BYTES, isAnimatedWebp } from "../../web/js/parts/animated_webp.js"
import { nodeOf } from "../../web/js/parts/nodes.js"
import { progressText } from "../../web/js/parts/progress_text.js"

const bytes = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0))
const extended = (next) => bytes(`RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0${next}`)

test("an animated WebP is told from its head", () => {
  assert.equal(extended("ANIM").length, HEAD_BYTES)
  assert.equal(isAnimatedWebp(extended("ANIM")), true)
})

test("other pictures do not move", () => {
  for (const head of [extended("ALPH"), bytes("RIFF\0\0\0\0WEBPVP8 "), bytes("\xff\xd8\xff\xe0"), bytes("")]) {
    assert.equal(isAnimatedWebp(head), false)
  }
})

test("a node is found by its execution id, in subgraphs too", () => {
  const graph = (nodes) => ({ getNodeById: (id) => nodes[id] })
  const inner = { name: "inner" }
  const outer = { subgraph: graph({ 7: { subgraph: graph({ 1: inner }) } }) }
  const root = graph({ 3: outer })
  assert.equal(nodeOf(root, "3"), outer)
  assert.equal(nodeOf(root, 3), outer)
  assert.equal(nodeOf(root, "3:7:1"), inner)
  for (const id of ["4", "3:8", "3:7:2", "3:7:1:1", "4:1"]) assert.equal(nodeOf(root, id), null)
})

test("progress is told in the largest units", () => {
  const told = (seconds, step = 3) => progressText({ step, steps: 20, seconds_left: seconds })
  assert.equal(told(0.2), "step 3 of 20, 1 s left")
  assert.equal(told(59.5), "step 3 of 20, 1 min 0 s left")
  assert.equal(told(65), "step 3 of 20, 1 min 5 s left")
  assert.equal(told(3725), "step 3 of 20, 1 h 2 min left")
  assert.equal(told(0, 20), "step 20 of 20")
})
