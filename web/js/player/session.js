/**
 * What a player remembers until the page is closed: its last results and how they are played. ComfyUI makes new node
 * objects whenever another workflow tab is shown; this stays. Independent of the page.
 *
 * @typedef {import("./payload.js").Result} Result
 * @typedef {{id: string | number, graph?: Pick<LGraph, "id">}} NodeInGraph
 * @typedef {{number: number, result: Result, thumbnail: string | null}} Entry
 */

import { ENDINGS, SPEEDS } from "./frames.js"

const KEPT = 8 // results

export class Session {
  /** @type {Entry[]} oldest first */
  entries = []
  /** @type {string | null} the id of the result that is shown */
  shown = null
  /** @type {boolean | null} whether it plays; null until the user has decided */
  wanted = null
  muted = true
  speed = SPEEDS[0]
  ending = ENDINGS[0]
  #count = 0

  /**
   * Add a result. One that is known already (a cached run sends it again) keeps its entry.
   * @param {Result} result
   * @returns {Entry}
   */
  remember(result) {
    const known = this.entries.find((entry) => entry.result.id === result.id)
    if (known) return known
    this.#count += 1
    const entry = { number: this.#count, result, thumbnail: null }
    this.entries = [...this.entries, entry].slice(-KEPT)
    return entry
  }

  /**
   * The entry to show for an output: its own if it is new, else the one that was shown last.
   * @param {Result} result
   * @param {boolean} fresh whether a run has just made it
   */
  choose(result, fresh) {
    const known = this.entries.some((entry) => entry.result.id === result.id)
    const own = this.remember(result)
    const last = this.entries.find((entry) => entry.result.id === this.shown)
    return known && !fresh && last ? last : own
  }

  /** The results that are not shown now. */
  others() {
    return this.entries.filter((entry) => entry.result.id !== this.shown)
  }
}

/**
 * Sessions by key, each made when it is first asked for.
 * @returns {(key: string) => Session}
 */
export function keepSessions() {
  /** @type {Map<string, Session>} */
  const sessions = new Map()
  return (key) => {
    const session = sessions.get(key) ?? new Session()
    sessions.set(key, session)
    return session
  }
}

/**
 * A node's key: its workflow, its subgraph if it is in one, and its id.
 * @param {Pick<LGraph, "id">} rootGraph
 * @param {NodeInGraph} node
 */
export function sessionKey(rootGraph, node) {
  return [rootGraph.id, locatorOf(rootGraph, node)].join("/")
}

/**
 * The id under which ComfyUI keeps a node's outputs.
 * @param {Pick<LGraph, "id">} rootGraph
 * @param {NodeInGraph} node
 */
export function locatorOf(rootGraph, node) {
  return node.graph === rootGraph ? String(node.id) : `${node.graph?.id}:${node.id}`
}
