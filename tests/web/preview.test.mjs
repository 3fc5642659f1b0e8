/** What moving previews rest on, without a browser. */
import assert from "node:assert/strict"
import { test } from "node:test"

import { HEAD_BYTES, isAnimatedWebp } from "../../web/js/parts/animated_webp.js"
import { nodeOf } from "../../web/js/parts/nodes.js"
import { durationText, progressText } from "../../web/js/parts/progress.js"
import { translator } from "../../web/js/parts/strings.js"

const bytes = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0))
const extended = (next) => bytes(`RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0${next}`)

test("an animated WebP is recognized by its first bytes", () => {
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

test("progress in words has the time that is left, if any is", () => {
  const text = (step, locale = "en") => progressText({ step, steps: 20, seconds_left: 65 }, translator(locale))
  assert.equal(text(3), "Step 3 of 20 · 1:05 left")
  assert.equal(text(20), "Step 20 of 20")
  assert.equal(text(3, "zh"), "第 3 步，共 20 步 · 剩余 1:05")
})

test("a duration is for people", () => {
  assert.deepEqual([0.4, 59.4, 65, 3605, -1].map(durationText), ["0 s", "59 s", "1:05", "1:00:05", "0 s"])
})
