/** The scripts as files: ComfyUI loads every one of them as an extension, so only the entries may do anything. */

import assert from "node:assert/strict"
import { readdirSync, readFileSync } from "node:fs"
import { test } from "node:test"

const FOLDER = new URL("../../web/js/", import.meta.url)
const LONGEST = 300 // lines
const HOST = ["../../../scripts/api.js", "../../../scripts/app.js"]
const entries = scriptsOf("./")
const modules = [...scriptsOf("./parts/"), ...scriptsOf("./player/")]

function scriptsOf(folder) {
  const names = readdirSync(new URL(folder, FOLDER)).filter((name) => name.endsWith(".js"))
  return names.map((name) => new URL(folder + name, FOLDER))
}

function importsOf(file) {
  return [...readFileSync(file, "utf8").matchAll(/from "([^"]+)"/g)].map((match) => match[1])
}

test("there is no page here, and every module can be imported", async () => {
  assert.equal(typeof document, "undefined")
  for (const file of modules) assert.ok(Object.keys(await import(file)).length, file)
})

test("a file holds one feature, in less than 300 lines", () => {
  const isLong = (file) => readFileSync(file, "utf8").split("\n").length > LONGEST
  assert.deepEqual([...entries, ...modules].filter(isLong), [])
})

test("the stylesheet is for elements inside of a player, whatever else is on the page", () => {
  const css = readFileSync(new URL("player/player.css", FOLDER), "utf8").replaceAll(/\/\*.*?\*\//gs, "")
  const lists = [...css.matchAll(/([^{}]+)\{/g)].map(([, list]) => list.trim())
  assert.ok(lists.length > 40)
  for (const list of lists) {
    for (const selector of list.split(/,(?![^(]*\))/)) assert.match(selector.trim(), /^\.cogvideox-player\b/)
  }
})

test("only ComfyUI's two stable scripts are imported, and by the entries alone", () => {
  for (const file of entries) {
    for (const path of importsOf(file)) assert.ok(HOST.includes(path) || path.startsWith("./"), `${file}: ${path}`)
  }
  for (const file of modules) {
    for (const path of importsOf(file)) assert.match(path, /^(\.|\.\.\/parts)\/\w+\.js$/, file)
  }
})
