/** Frames and times of the player. */

import assert from "node:assert/strict"
import { test } from "node:test"

import * as frames from "../../web/js/player/frames.js"

const CLIPS = [
  { fps: 8, frames: 49 },
  { fps: 16, frames: 81 },
  { fps: 24000 / 1001, frames: 161 },
  { fps: 8, frames: 1 },
]
const all = (clip) => Array.from({ length: clip.frames }, (_, index) => index)

test("the time of a frame is its middle, and the frame of that time is the same one", () => {
  for (const clip of CLIPS) {
    for (const frame of all(clip)) {
      const time = frames.timeOfFrame(frame, clip)
      assert.equal(frames.frameAtTime(time, clip), frame)
      assert.ok(Math.abs(time * clip.fps - frame - 0.5) < 1e-9)
    }
  }
})

test("the time a browser reports for a frame, rounded to microseconds, counts as that frame", () => {
  for (const clip of CLIPS) {
    for (const frame of all(clip)) {
      const reported = Math.floor((frame / clip.fps) * 1e6) / 1e6
      assert.equal(frames.frameAtTime(reported, clip), frame)
    }
  }
})

test("times outside of the video are its ends", () => {
  const clip = CLIPS[0]
  assert.equal(frames.frameAtTime(-1, clip), 0)
  assert.equal(frames.frameAtTime(100, clip), 48)
  assert.equal(frames.clampFrame(Infinity, clip), 48)
})

test("every frame has the same width on the scrub bar", () => {
  const clip = { fps: 8, frames: 20 }
  assert.equal(frames.frameAtPosition(0, 200, clip), 0)
  assert.equal(frames.frameAtPosition(9.9, 200, clip), 0)
  assert.equal(frames.frameAtPosition(10, 200, clip), 1)
  assert.equal(frames.frameAtPosition(0.7 * 200, 200, clip), 14)
  assert.equal(frames.frameAtPosition(200, 200, clip), 19)
  assert.equal(frames.frameAtPosition(-5, 200, clip), 0)
  for (const frame of all(clip)) {
    assert.equal(frames.frameAtPosition(frames.positionOfFrame(frame, clip) * 200, 200, clip), frame)
  }
})

test("steps stop at the ends, or go on at the other one", () => {
  const clip = CLIPS[0]
  assert.equal(frames.stepFrame(3, 1, clip, false), 4)
  assert.equal(frames.stepFrame(48, 1, clip, false), 48)
  assert.equal(frames.stepFrame(48, 1, clip, true), 0)
  assert.equal(frames.stepFrame(0, -1, clip, true), 48)
  assert.equal(frames.stepFrame(0, -10, clip, false), 0)
})

test("backwards each frame shows for its time, and the ends once", () => {
  const clip = { fps: 4, frames: 5 }
  const shown = Array.from({ length: 8 }, (_, index) => frames.backwardFrame(index * 0.125, 1, clip))
  assert.deepEqual(shown, [3, 3, 2, 2, 1, 1, 0, 0])
  assert.equal(frames.backwardFrame(0.25, 2, clip), 1)
  assert.ok(frames.backwardFrame(0, 1, { fps: 4, frames: 2 }) <= 0)
})

test("after the last entry of a list comes the first", () => {
  const next = frames.ENDINGS.map((ending) => frames.following(frames.ENDINGS, ending))
  assert.deepEqual(next, ["pingpong", "once", "loop"])
})

test("labels count from 1 and keep their width", () => {
  assert.equal(frames.frameText(0, CLIPS[0]), "\u20071/49")
  assert.equal(frames.frameText(48, CLIPS[0]), "49/49")
  assert.equal(frames.rateText(8), "8")
  assert.equal(frames.rateText(24000 / 1001), "23.98")
})
