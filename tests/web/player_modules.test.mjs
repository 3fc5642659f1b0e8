/** The player's files: ComfyUI loads every one of them as an extension, so none may do anything by itself. */

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

const FOLDER = new URL("../../web/js/player/", import.meta.url);
const LONGEST = 300; // lines
const modules = readdirSync(FOLDER).filter((name) => name.endsWith(".js"));

test("there is no page here, and every file can be imported", async () => {
  assert.equal(typeof document, "undefined");
  for (const name of modules) assert.ok(Object.keys(await import(new URL(name, FOLDER))).length, name);
});

test("a file holds one feature, in less than 300 lines", () => {
  const long = modules.filter((name) => readFileSync(new URL(name, FOLDER), "utf8").split("\n").length > LONGEST);
  assert.deepEqual(long, []);
});

test("only ComfyUI's two stable scripts are imported, and by the entry alone", () => {
  const imports = (text) => [...text.matchAll(/from "([^"]+)"/g)].map((match) => match[1]);
  const entry = imports(readFileSync(new URL("../player.js", FOLDER), "utf8"));
  const outside = entry.filter((path) => !path.startsWith("./"));
  assert.deepEqual(outside, ["../../../scripts/api.js", "../../../scripts/app.js"]);
  for (const name of modules) {
    for (const path of imports(readFileSync(new URL(name, FOLDER), "utf8"))) assert.match(path, /^\.\/\w+\.js$/, name);
  }
});
