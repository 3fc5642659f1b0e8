/**
 * What a player remembers until the page is closed: its last results and how they are played. It outlives the node object,
 * which ComfyUI makes anew whenever another workflow tab is shown. Nothing here touches the page.
 *
 * @typedef {{number: number, result: import("./payload.js").Result, thumbnail: ?string}} Entry
 */

import { ENDINGS, SPEEDS } from "./frames.js"

const KEPT = 8 // results

export class Session {
  /** @type {Entry[]} oldest first */
  entries = []
  /** The id of the result that is shown. */
  shown = null
  /** Whether it plays; null until somebody has said so. */
  wanted = null
  muted = true
  speed = SPEEDS[0]
  ending = ENDINGS[0]
  #count = 0

  /** Note a result; one that is known already (a cached run sends it again) keeps its place. @returns {Entry} */
  remember(result) {
    const known = this.entries.find((entry) => entry.result.id === result.id)
    if (known) return known
    this.#count += 1
    const entry = { number: this.#count, result, thumbnail: null }
    this.entries = [...this.entries, entry].slice(-KEPT)
    return entry
  }

  /** The entry to show for an output: its own if it is new, else what was looked at last. @returns {Entry} */
  choose(result, fresh) {
    const known = this.entries.some((entry) => entry.result.id === result.id)
    const own = this.remember(result)
    const last = this.entries.find((entry) => entry.result.id === this.shown)
    return known && !fresh && last ? last : own
  }

  /** @returns {Entry[]} the results that are not shown now */
  others() {
    return this.entries.filter((entry) => entry.result.id !== this.shown)
  }
}

/** @returns {(key: string) => Session} sessions by key, each made when it is first asked for */
export function keepSessions() {
  const sessions = new Map()
  return (key) => {
    if (!sessions.has(key)) sessions.set(key, new Session())
    return sessions.get(key)
  }
}

/** @returns {string} a node's key: its workflow, its subgraph if it is in one, and its id */
export function sessionKey(rootGraph, node) {
  return [rootGraph.id, locatorOf(rootGraph, node)].join("/")
}

/** @returns {string} the id that ComfyUI keeps a node's outputs under */
export function locatorOf(rootGraph, node) {
  return node.graph === rootGraph ? String(node.id) : `${node.graph.id}:${node.id}`
}
