/**
 * The live stage as a state machine: what is known of a run before its video is there. Nothing here touches the page.
 *
 * Events are those of the nodes upstream of a player, and the ends of runs:
 * `{type: "preview" | "progress" | "step" | "result" | "end" | "cancel" | "lost", prompt, node, step, steps, secondsLeft, how}`.
 *
 * @typedef {{phase: "idle" | "running" | "cancelling", prompt: ?string, node: ?string, step: number, steps: number,
 *   secondsLeft: ?number, note: ?string, done: ?string}} Live `done`: the last prompt that ended; what of it comes late
 *   does not count
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

/** What to say once a run has ended without a video, by how it ended. */
const NOTES = { error: "failed", interrupted: "cancelled", success: null }

/** @returns {Live} the state after an event */
export function afterEvent(live, event) {
  switch (event.type) {
    case "preview":
    case "progress":
    case "step":
      return live.done === event.prompt ? live : { ...runOf(live, event.prompt), ...told(live, event) }
    case "cancel":
      return live.phase === "running" ? { ...live, phase: "cancelling" } : live
    case "result":
      return { ...IDLE, done: live.prompt ?? live.done }
    case "lost": // of a run that goes on after all there is more to come
      return { ...IDLE, done: live.done }
    case "end":
      return live.prompt === event.prompt ? { ...IDLE, note: NOTES[event.how], done: event.prompt } : live
  }
  return live
}

/** The state of a prompt's run, a new one if another ran before. */
function runOf(live, prompt) {
  return live.prompt === prompt ? live : { ...IDLE, phase: "running", prompt }
}

/** What an event says of the progress. A node that reports no times of its own ends the countdown of the one before. */
function told(live, { type, node, step, steps, secondsLeft }) {
  if (type === "preview") return {}
  if (type === "step") return { node, step, steps, secondsLeft }
  return { node, step, steps, secondsLeft: live.node === node ? live.secondsLeft : null }
}
