/**
 * What a player remembers until the page is closed: its last results and how they are played. ComfyUI makes new node
 * objects whenever another workflow tab is shown; this stays. Independent of the page.
 *
 * @typedef {import("./payload.js").Result} Result
 * @typedef {{id: string | number, graph?: Pick<LGraph, "id">}} NodeInGraph
 * @typedef {object} Entry what one run has made: the clips of a batch
 * @property {string} id that of its first clip
 * @property {number} number counts the runs
 * @property {Result[]} clips
 * @property {number} clip which of them is shown, from 0
 * @property {string | null} thumbnail
 */

import { ENDINGS, SPEEDS } from "./frames.js"

const KEPT = 8 // results

export class Session {
  /** @type {Entry[]} oldest first */
  entries = []
  /** @type {string | null} the id of the entry that is shown */
  shown = null
  /** @type {boolean | null} whether it plays; null until the user has decided */
  wanted = null
  muted = true
  speed = SPEEDS[0]
  ending = ENDINGS[0]
  #count = 0

  /**
   * Add what a run has made. If it is known already (a cached run sends it again), it keeps its entry.
   * @param {Result[]} clips at least one
   * @returns {Entry}
   */
  remember(clips) {
    const known = this.#find(clips[0].id)
    if (known) return known
    this.#count += 1
    const entry = { id: clips[0].id, number: this.#count, clips, clip: 0, thumbnail: null }
    this.entries = [...this.entries, entry].slice(-KEPT)
    return entry
  }

  /**
   * The entry to show for an output: its own if it is new, else the one that was shown last.
   * @param {Result[]} clips at least one
   * @param {boolean} fresh whether a run has just made them
   */
  choose(clips, fresh) {
    const isKnown = this.#find(clips[0].id) !== undefined
    const own = this.remember(clips)
    return isKnown && !fresh && this.current ? this.current : own
  }

  /** The entry that is shown now. */
  get current() {
    return this.#find(this.shown)
  }

  /**
   * Show an entry from now on.
   * @param {string} id
   */
  show(id) {
    if (this.#find(id)) this.shown = id
    return this.current
  }

  /** The entries that are not shown now. */
  others() {
    return this.entries.filter(({ id }) => id !== this.shown)
  }

  /** @param {string | null} id */
  #find(id) {
    return this.entries.find((entry) => entry.id === id)
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
