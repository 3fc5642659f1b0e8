/** What the player says: words in every language, badges, settings, names of files; and the keys it takes. */

import assert from "node:assert/strict"
import { test } from "node:test"
import { STRINGS, translator } from "../../web/js/parts/strings.js"
import { badges, levelOf, rangesText } from "../../web/js/player/badges.js"
import { actionOf, staysHere } from "../../web/js/player/keyboard.js"
import { readClips, savedFile, snapshotName, viewRoute } from "../../web/js/player/payload.js"
import { settingsRows, settingsText } from "../../web/js/player/settings.js"

const t = translator("en")
const NO_MODIFIER = { shiftKey: false, ctrlKey: false, altKey: false, metaKey: false }
const key = (name, more = {}) => ({ key: name, ...NO_MODIFIER, ...more })

test("every language has the same words with the same values", () => {
  const values = (text) => (text.match(/\{\w+\}/g) ?? []).sort()
  for (const [locale, table] of Object.entries(STRINGS)) {
    assert.deepEqual(Object.keys(table), Object.keys(STRINGS.en), locale)
    for (const [name, text] of Object.entries(table)) {
      assert.deepEqual(values(text), values(STRINGS.en[name]), `${locale} ${name}`)
    }
  }
})

test("a language without a table of its own takes its relative's, or English", () => {
  assert.equal(translator("zh-TW")("save"), STRINGS.zh.save)
  assert.equal(translator("fr")("save"), "Save")
  assert.equal(t("frameOf", { frame: 3, frames: 49 }), "Frame 3 of 49")
})

const CHECKS = { first_frame: 34.26, reference: null, seam: 18.4, step: 31, black: [], frozen: [] }

test("badges tell what was measured and nothing else", () => {
  const found = badges(CHECKS, 49, t)
  assert.deepEqual(
    found.map(({ text, level, frame }) => [text, level, frame]),
    [
      ["first frame 34.3 dB", "good", 0],
      ["loop 18.4 dB", "poor", 48],
    ],
  )
  assert.match(found[1].hint, /31 dB/)
  assert.deepEqual(badges({ ...CHECKS, first_frame: null, seam: null, step: null }, 1, t), [])
})

test("a seam as good as the step between neighbours is good, however large the step", () => {
  const [, seam] = badges({ ...CHECKS, seam: 18.4, step: 20 }, 49, t)
  assert.equal(seam.level, "good")
})

test("black and frozen frames are counted from 1 and lead to the first of them", () => {
  const found = badges(
    {
      ...CHECKS,
      first_frame: null,
      seam: null,
      black: [
        [0, 2],
        [7, 7],
      ],
      frozen: [[4, 5]],
    },
    9,
    t,
  )
  assert.deepEqual(
    found.map(({ text, frame }) => [text, frame]),
    [
      ["black 1–3, 8", 0],
      ["frozen 5–6", 4],
    ],
  )
  assert.equal(rangesText([[0, 0]]), "1")
})

test("levels", () => {
  assert.deepEqual([30, 29.9, 20, 19.9, 0].map(levelOf), ["good", "fair", "fair", "poor", "poor"])
})

test("settings are rows in one order; the size is the video's own", () => {
  const settings = { seed: "18446744073709551615", model: "m", unknown: "x" }
  const result = { settings, width: 96, height: 64, frames: 17, fps: 8 }
  const rows = settingsRows(result, t)
  assert.deepEqual(rows, [
    ["Model", "m"],
    ["Seed", "18446744073709551615"],
    ["Size", "96 × 64, 17 frames, 8 fps"],
  ])
  assert.equal(settingsText(rows.slice(0, 2)), "Model: m\nSeed: 18446744073709551615")
})

test("clips are read from an output with videos, and from no other", () => {
  const file = { filename: "v_00001_.mp4", subfolder: "a b", type: "output" }
  assert.deepEqual(readClips(undefined), [])
  assert.deepEqual(readClips({ images: [file] }), [])
  const old = readClips({ images: [file], cogvideox_player: [{ id: "x" }] })
  assert.deepEqual(old, [{ id: "x", file, files: 1, shown: file }])
  const clips = ["x", "y"].map((id) => ({ id, file: { ...file, filename: id }, files: 1, shown: file }))
  assert.deepEqual(readClips({ images: [file, file], cogvideox_player: clips }), clips)
  assert.equal(savedFile(clips[1]).filename, "y")
  assert.equal(savedFile({ ...clips[1], files: 49 }), file, "of many pictures the video is saved")
  assert.equal(viewRoute(file, "x"), "/view?filename=v_00001_.mp4&subfolder=a+b&type=output&v=x")
  assert.equal(snapshotName(file.filename, 11), "v_00001_frame_0012.png")
})

test("keys do what they say, and those with Ctrl belong to ComfyUI", () => {
  assert.deepEqual(actionOf(key(" ")), ["toggle"])
  assert.deepEqual(actionOf(key(",")), ["step", -1])
  assert.deepEqual(actionOf(key("ArrowRight")), ["step", 1])
  assert.deepEqual(actionOf(key("ArrowRight", { shiftKey: true })), ["step", 10])
  assert.deepEqual(actionOf(key("ArrowDown")), ["switchClip", 1])
  assert.deepEqual(actionOf(key("End")), ["seek", Infinity])
  assert.deepEqual(actionOf(key("F")), ["toggleFullscreen"])
  assert.equal(actionOf(key("s", { ctrlKey: true })), null)
  assert.equal(actionOf(key("Delete")), null)
})

test("what the player does not know stays in it all the same, or Delete would delete the node", () => {
  assert.ok(staysHere(key("Delete")))
  assert.ok(staysHere(key("Backspace")))
  assert.ok(!staysHere(key("Enter", { ctrlKey: true })))
  assert.ok(!staysHere(key("Tab")))
})
