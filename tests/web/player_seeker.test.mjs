/** Seeking to frames. */

import assert from "node:assert/strict"
import { test } from "node:test"

import { Seeker } from "../../web/js/player/seeker.js"

class StillVideo extends EventTarget {
  readyState = 0
  seeking = false
  sought = []
  set currentTime(seconds) {
    this.seeking = true
    this.sought.push(seconds)
  }
  finish() {
    this.seeking = false
    this.dispatchEvent(new Event("seeked"))
  }
}

test("of the frames asked for while a video seeks, only the last is sought", () => {
  const video = new StillVideo()
  const seeker = new Seeker(video)
  const clip = { fps: 10, frames: 20 }
  seeker.seek(3, clip)
  assert.deepEqual(video.sought, [])
  assert.ok(seeker.busy)
  video.readyState = 1
  video.dispatchEvent(new Event("loadedmetadata"))
  seeker.seek(4, clip)
  seeker.seek(5, clip)
  video.finish()
  assert.deepEqual(video.sought, [0.35, 0.55])
  video.finish()
  assert.ok(!seeker.busy)
})
