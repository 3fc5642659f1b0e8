/** Extensions that were disabled under their former names stay disabled. */

import assert from "node:assert/strict"
import { test } from "node:test"

/** A fresh copy of the module, as of a page that has just been opened, and the settings it sees. */
async function openPage(disabled) {
  const settings = {
    get: () => disabled,
    set: (_, value) => {
      disabled = value
    },
  }
  const { wasDisabled } = await import(`../../web/js/parts/former_names.js?${Math.random()}`)
  return { settings, disabled: () => disabled, was: (name) => wasDisabled(settings, name) }
}

test("without former names the setting stays as it is", async () => {
  for (const listed of [undefined, [], ["cogvideox.player", "pysssss.Locking"]]) {
    const page = await openPage(listed)
    assert.equal(page.was("cogvideox.player"), false)
    assert.equal(page.disabled(), listed)
  }
})

test("a former name keeps its extension off, and the setting gets the present name", async () => {
  const page = await openPage(["pysssss.Locking", "CogVideoX.Preview"])
  assert.equal(page.was("cogvideox.preview"), true)
  assert.equal(page.was("cogvideox.foreign"), false)
  assert.equal(page.was("cogvideox.preview"), true)
  assert.deepEqual(page.disabled(), ["pysssss.Locking", "cogvideox.preview"])
})

test("a name that is listed twice is listed once", async () => {
  const page = await openPage(["CogVideoX.Player", "cogvideox.player"])
  assert.equal(page.was("cogvideox.player"), true)
  assert.deepEqual(page.disabled(), ["cogvideox.player"])
})
