/** The player's stylesheet. */

import { element } from "./elements.js"

/** @type {Promise<string> | undefined} */
let text

/**
 * The stylesheet as an element to put into a player: nothing is added to the page outside of its node. All its rules
 * are for elements in a player.
 */
export function stylesheet() {
  const style = element("style")
  text ??= load()
  text.then((css) => {
    style.textContent = css
  })
  return style
}

async function load() {
  const answer = await fetch(new URL("./player.css", import.meta.url))
  if (!answer.ok) throw new Error(`${answer.url}: ${answer.status} ${answer.statusText}`)
  return answer.text()
}
