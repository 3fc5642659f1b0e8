/** What a player remembers. */

import assert from "node:assert/strict"
import { test } from "node:test"

import { keepSessions, locatorOf, sessionKey } from "../../web/js/player/session.js"

test("a session remembers the last eight results, each once, and numbers them on", () => {
  const session = keepSessions()("key")
  for (let number = 1; number <= 10; number += 1) session.remember([{ id: `r${number}` }])
  const again = session.remember([{ id: "r10" }])
  assert.equal(again.number, 10)
  assert.deepEqual(
    session.entries.map(({ number }) => number),
    [3, 4, 5, 6, 7, 8, 9, 10],
  )
  session.shown = "r10"
  assert.equal(session.others().length, 7)
})

test("a session belongs to a node of a workflow", () => {
  const sessions = keepSessions()
  const root = { id: "workflow" }
  const inner = { id: "subgraph" }
  assert.equal(sessionKey(root, { graph: root, id: 3 }), "workflow/3")
  assert.equal(locatorOf(root, { graph: inner, id: "3" }), "subgraph:3")
  assert.equal(sessions("workflow/3"), sessions("workflow/3"))
  assert.notEqual(sessions("workflow/3"), sessions("workflow/4"))
})

test("what was looked at last is shown again, until something new comes", () => {
  const session = keepSessions()("key")
  const [first, second, third] = ["a", "b", "c"].map((id) => [{ id }])
  session.shown = session.choose(first, true).id
  session.shown = session.choose(second, true).id
  assert.equal(session.shown, "b")
  session.shown = "a"
  assert.equal(session.choose(second, false).id, "a")
  assert.equal(session.choose(second, true).id, "b", "a cached run shows its own")
  assert.equal(session.choose(third, false).id, "c")
})
