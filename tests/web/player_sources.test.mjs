/** What a clip is compared with. */

import assert from "node:assert/strict"
import { test } from "node:test"

import { translator } from "../../web/js/parts/strings.js"
import { Session } from "../../web/js/player/session.js"
import { compareSources } from "../../web/js/player/sources.js"

const t = translator("en")
const clip = (id, reference = null) => ({
  id,
  shown: { filename: `${id}.mp4`, subfolder: "", type: "temp" },
  reference,
})
const sources = (session) => compareSources(session, t, (route) => route.slice(0, 15))
const labels = (session) => sources(session).map(({ label }) => label)

test("without a result there is nothing to compare", () => {
  assert.deepEqual(labels(new Session()), [])
})

test("the reference comes first, then the clips of the batch, then other results, newest first", () => {
  const session = new Session()
  const still = { filename: "still.png", subfolder: "", type: "temp", frames: 1 }
  session.remember([clip("a")])
  session.remember([clip("b"), clip("c")])
  const batch = session.remember([clip("d", still), clip("e", still), clip("f", still)])
  session.show(batch.id)
  assert.deepEqual(labels(session), ["reference", "clip 2", "clip 3", "result 2", "result 1"])
  batch.clip = 1
  assert.deepEqual(labels(session), ["reference", "clip 1", "clip 3", "result 2", "result 1"])
  assert.deepEqual(
    sources(session).map(({ key, moves }) => [key, moves]),
    [
      ["reference", false],
      ["d", true],
      ["f", true],
      ["b", true],
      ["a", true],
    ],
  )
})

test("of another batch the clip counts that was shown last", () => {
  const session = new Session()
  session.remember([clip("a"), clip("b")]).clip = 1
  session.show(session.remember([clip("c")]).id)
  assert.match(compareSources(session, t, (route) => route)[0].url, /b\.mp4/)
})
