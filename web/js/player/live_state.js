/**
 * The live stage as a state machine: what is known of a run before its video is there. Independent of the page.
 *
 * @typedef {"error" | "interrupted" | "success"} HowEnded
 *
 * @typedef {object} Progress how far a node is
 * @property {string} prompt
 * @property {string} [node] its execution id
 * @property {number} step
 * @property {number} steps
 *
 * @typedef {{type: "preview", prompt: string, node?: string}
 *   | ({type: "progress"} & Progress)
 *   | ({type: "step", secondsLeft: number} & Progress)
 *   | {type: "end", prompt: string, how: HowEnded, node?: string}
 *   | {type: "result" | "cancel" | "lost", node?: string}} LiveEvent "result": the video of the run is there; "lost": the
 *   connection was interrupted
 *
 * @typedef {object} Live
 * @property {"idle" | "running" | "cancelling"} phase
 * @property {string | null} prompt
 * @property {string | null} node
 * @property {number} step
 * @property {number} steps
 * @property {number | null} secondsLeft
 * @property {"failed" | "cancelled" | null} note why there is no video
 * @property {string | null} done the last prompt that ended; events of it that arrive late do not count
 */

/** @type {Live} */
export const IDLE = {
  phase: "idle",
  prompt: null,
  node: null,
  step: 0,
  steps: 0,
  secondsLeft: null,
  note: null,
  done: null,
}

/**
 * What to say once a run has ended without a video.
 * @type {Record<HowEnded, Live["note"]>}
 */
const NOTES = { error: "failed", interrupted: "cancelled", success: null }

/**
 * The state after an event.
 * @param {Live} live
 * @param {LiveEvent} event
 * @returns {Live}
 */
export function afterEvent(live, event) {
  switch (event.type) {
    case "preview":
    case "progress":
    case "step":
      return live.done === event.prompt ? live : { ...runOf(live, event.prompt), ...progressOf(live, event) }
    case "cancel":
      return live.phase === "running" ? { ...live, phase: "cancelling" } : live
    case "result":
      return { ...IDLE, done: live.prompt ?? live.done }
    case "lost": // if the run goes on, more events will come
      return { ...IDLE, done: live.done }
    case "end":
      return live.prompt === event.prompt ? { ...IDLE, note: NOTES[event.how], done: event.prompt } : live
  }
  return live
}

/**
 * The state of a prompt's run, a new one if another ran before.
 * @param {Live} live
 * @param {string} prompt
 * @returns {Live}
 */
function runOf(live, prompt) {
  return live.prompt === prompt ? live : { ...IDLE, phase: "running", prompt }
}

/**
 * What an event says of the progress. Only "step" events say how much time is left; progress of another node ends the
 * countdown.
 * @param {Live} live
 * @param {LiveEvent & {type: "preview" | "progress" | "step"}} event
 * @returns {Partial<Live>}
 */
function progressOf(live, event) {
  if (event.type === "preview") return {}
  const { node = null, step, steps } = event
  if (event.type === "step") return { node, step, steps, secondsLeft: event.secondsLeft }
  return { node, step, steps, secondsLeft: live.node === node ? live.secondsLeft : null }
}
