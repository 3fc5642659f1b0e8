/**
 * The player: one element with everything in it, made once per node. It knows of ComfyUI only what its host gives it.
 *
 * @typedef {object} Host what the player needs of ComfyUI
 * @property {import("../parts/strings.js").Translate} t
 * @property {(route: string) => string} address the URL of a route
 * @property {() => Session} session of this node; asked for once the node has its id
 * @property {(prompt: string) => void} cancel stop a run
 * @property {(node: string) => string} nameOf a node's title by its execution id
 * @property {() => LGraphCanvas} canvas
 * @property {() => boolean} classic whether the classic renderer is on
 *
 * @typedef {import("./payload.js").Result} Result
 */

import { connectToCanvas } from "../parts/canvas_events.js"
import { badges } from "./badges.js"
import { Compare } from "./compare.js"
import { Controls } from "./controls.js"
import { Drawer } from "./drawer.js"
import { element, prefersStillness } from "./elements.js"
import { ENDINGS, following, SPEEDS, stepFrame } from "./frames.js"
import { listenToKeys } from "./keyboard.js"
import { LiveStage } from "./live.js"
import { readClips, savedFile, snapshotName, viewRoute } from "./payload.js"
import { Playback } from "./playback.js"
import { Session } from "./session.js"
import { saveFrame, thumbnail } from "./snapshot.js"
import { compareSources } from "./sources.js"
import { Strip } from "./strip.js"
import { stylesheet } from "./styles.js"
import { Switcher } from "./switcher.js"
import { Timeline } from "./timeline.js"
import { watchVisibility } from "./visibility.js"

const HEIGHT = 260 // pixels of the smallest player without the strip
const STRIP_HEIGHT = 46

export class VideoPlayer {
  #host
  #t
  /** @type {Result | null} */
  #result = null
  #session = new Session() // until the node's own is known
  #parts
  #playback
  /** @type {AbortController | null} aborted when the node leaves its graph */
  #watch = null
  #video = element("video", { class: "cvx-picture", playsinline: "", preload: "auto", tabindex: "-1" })
  #layers = element("div", { class: "cvx-layers" }, this.#video)
  #message = element("p", { class: "cvx-message" })
  #stage = element("div", { class: "cvx-stage" }, this.#layers, this.#message)
  #badges = element("div", { class: "cvx-badges" })

  /** @param {Host} host */
  constructor(host) {
    this.#host = host
    this.#t = host.t
    this.#video.muted = true
    this.#playback = new Playback(this.#video, {
      onFrame: () => this.#showFrame(),
      onChange: () => this.#notePlaying(),
    })
    const actions = this.#actions()
    const { t, cancel, nameOf } = host
    const onChange = () => this.#showState()
    this.#parts = {
      compare: new Compare({ t, stage: this.#stage, layers: this.#layers, onChange }),
      live: new LiveStage({ t, cancel, nameOf, onChange }),
      drawer: new Drawer({ t, close: actions.toggleSettings }),
      switcher: new Switcher({ t, go: actions.switchClip }),
      timeline: new Timeline({ t, seek: actions.seek, hold: (held) => this.#playback.setHeld(held) }),
      controls: new Controls({ t, actions }),
      strip: new Strip({ t, show: (id) => this.#showKnown(id), compare: (id) => this.#parts.compare.setSource(id) }),
    }
    const { live, drawer, switcher, timeline, controls, strip } = this.#parts
    this.#stage.append(live.picture, live.bar, drawer.element)
    this.element = element("div", { class: "cogvideox-player", tabindex: "0", role: "group" })
    this.element.setAttribute("aria-label", t("player"))
    const seek = element("div", { class: "cvx-seek" }, switcher.element, timeline.element, controls.label)
    this.element.append(stylesheet(), this.#stage, seek, controls.element, this.#badges, strip.element)
    this.#listen(actions)
    this.#showState()
  }

  /** The least height in pixels that shows everything. */
  get minHeight() {
    return HEIGHT + (this.#parts.strip.element.hidden ? 0 : STRIP_HEIGHT)
  }

  /**
   * Show a node's output. If it has no video, what is shown stays.
   * @param {unknown} output
   * @param {boolean} fresh whether a run has just made it
   */
  show(output, fresh) {
    const clips = readClips(output)
    if (!clips.length) return
    this.#session = this.#host.session()
    if (fresh) this.#parts.live.handle({ type: "result" })
    const entry = this.#session.choose(clips, fresh)
    if (entry.clips[entry.clip].id === this.#result?.id) return
    this.#playback.takeOver(this.#session)
    this.#showEntry(entry, (fresh ? null : this.#session.wanted) ?? !prefersStillness())
  }

  /**
   * @param {import("./live_state.js").LiveEvent} event
   * @param {Blob | null} [blob] the picture of a preview
   */
  live(event, blob = null) {
    this.#parts.live.handle(event, blob)
  }

  /** The node is on a graph: watch whether it can be seen. */
  attach() {
    this.#watch = new AbortController()
    watchVisibility(this.element, this.#video, (seen) => this.#playback.setSeen(seen), this.#watch.signal)
    if (this.#result) this.#load(this.#result, this.#session.wanted ?? !prefersStillness())
  }

  /** The node has left its graph: release everything that takes memory or time. */
  detach() {
    this.#watch?.abort()
    this.#parts.live.drop()
    this.#parts.compare.setMode("off")
    this.#playback.setSeen(false)
    this.#playback.unload()
  }

  /** @returns {import("./keyboard.js").Actions} */
  #actions() {
    const playback = this.#playback
    return {
      toggle: () => this.#result && playback.toggle(),
      step: (frames) => this.#result && playback.step(frames),
      seek: (frame) => this.#result && playback.seek(frame),
      switchClip: (clips) => this.#switchClip(clips),
      nextSpeed: () => playback.setSpeed(following(SPEEDS, playback.speed)),
      nextEnding: () => playback.setEnding(following(ENDINGS, playback.ending)),
      nextCompare: () => this.#parts.compare.nextMode(),
      toggleMute: () => this.#setMuted(!this.#video.muted),
      toggleSettings: () => this.#toggleSettings(),
      toggleFullscreen: () => this.#toggleFullscreen(),
      snapshot: () => this.#saveFrame(),
    }
  }

  /** @param {import("./keyboard.js").Actions} actions */
  #listen(actions) {
    connectToCanvas(this.element, this.#host.canvas, this.#host.classic)
    listenToKeys(this.element, actions)
    this.#stage.addEventListener("click", () => {
      this.element.focus({ preventScroll: true })
      actions.toggle()
    })
    this.element.addEventListener("fullscreenchange", () =>
      this.#parts.controls.setFullscreen(document.fullscreenElement === this.element),
    )
    this.#video.addEventListener("loadeddata", () => this.#makeThumbnail())
    this.#video.addEventListener("error", () => this.#result && this.#showMessage("missing"))
  }

  /** @param {string} id of an entry of the session */
  #showKnown(id) {
    const entry = this.#session.show(id)
    if (entry) this.#showEntry(entry, true)
  }

  /**
   * Show another clip of the batch, at the same frame; the first follows the last.
   * @param {number} clips how far from this one; negative: back
   */
  #switchClip(clips) {
    const entry = this.#session.current
    if (!entry || entry.clips.length < 2) return
    const { frame, wanted } = this.#playback
    entry.clip = stepFrame(entry.clip, clips, { frames: entry.clips.length }, true)
    this.#showEntry(entry, wanted)
    this.#playback.seek(frame)
  }

  /**
   * @param {import("./session.js").Entry} entry
   * @param {boolean} wanted whether the video is to play
   */
  #showEntry(entry, wanted) {
    const { controls, timeline, drawer, compare, switcher } = this.#parts
    const result = entry.clips[entry.clip]
    this.#result = result
    this.#session.show(entry.id)
    switcher.setEntry(entry)
    timeline.setClip(result, [...result.checks.black, ...result.checks.frozen])
    controls.setResult(result, this.#host.address(viewRoute(savedFile(result), result.id)))
    drawer.setResult(result)
    compare.setSources(compareSources(this.#session, this.#t, this.#host.address))
    this.#setMuted(this.#session.muted || !result.has_audio)
    this.#badges.replaceChildren(...badges(result.checks, result.frames, this.#t).map((badge) => this.#badge(badge)))
    this.#showStrip()
    this.#load(result, wanted)
  }

  /**
   * @param {Result} result
   * @param {boolean} wanted
   */
  #load(result, wanted) {
    this.#showMessage(null)
    this.#playback.load(this.#host.address(viewRoute(result.shown, result.id)), result, wanted)
  }

  #showStrip() {
    this.#parts.strip.setSession(this.#session)
    this.element.style.setProperty("--cvx-height", `${this.minHeight}px`)
    this.#host.canvas().setDirty(true, true) // the classic canvas asks for the least height when it draws
  }

  /** @param {import("./badges.js").Badge} badge */
  #badge({ text, hint, level, frame }) {
    const made = element("button", { type: "button", class: `cvx-badge cvx-${level}` }, text)
    made.title = hint
    if (frame !== null) made.addEventListener("click", () => this.#playback.step(frame - this.#playback.frame))
    return made
  }

  #showFrame() {
    const { frame, clip } = this.#playback
    this.#parts.timeline.setFrame(frame)
    this.#parts.controls.setFrame(frame, clip)
    this.#parts.compare.follow(this.#playback, this.#video.currentTime)
  }

  #notePlaying() {
    const { wanted, speed, ending } = this.#playback
    if (this.#result) Object.assign(this.#session, { wanted, speed, ending })
    this.#showState()
  }

  #showState() {
    if (!this.#parts) return // while the parts are made, they report changes already
    const { compare, controls, live } = this.#parts
    const { wanted, speed, ending } = this.#playback
    controls.setState({
      wanted,
      speed,
      ending,
      muted: this.#video.muted,
      comparable: compare.possible,
      comparing: compare.mode !== "off",
    })
    this.element.dataset.shows = live.running ? "live" : this.#result ? "video" : "nothing"
    if (!this.#result) this.#showMessage(live.running ? null : "empty")
    compare.follow(this.#playback, this.#video.currentTime)
  }

  /** @param {"empty" | "missing" | null} key */
  #showMessage(key) {
    this.#message.hidden = key === null
    this.#message.textContent = key === null ? "" : this.#t(key)
  }

  /** @param {boolean} muted */
  #setMuted(muted) {
    this.#video.muted = muted
    if (this.#result?.has_audio) this.#session.muted = muted
    this.#showState()
  }

  #toggleSettings() {
    const { drawer, controls } = this.#parts
    if (!this.#result) return
    drawer.setOpen(!drawer.open)
    controls.setSettingsOpen(drawer.open)
    ;(drawer.open ? drawer.element : this.element).focus({ preventScroll: true })
  }

  #toggleFullscreen() {
    if (document.fullscreenElement === this.element) document.exitFullscreen()
    else this.element.requestFullscreen()
  }

  #saveFrame() {
    if (!this.#result || !this.#video.videoWidth) return
    saveFrame(this.#video, snapshotName(this.#result.shown.filename, this.#playback.frame))
  }

  #makeThumbnail() {
    const entry = this.#session.current
    if (!entry || entry.thumbnail) return
    entry.thumbnail = thumbnail(this.#video)
    this.#showStrip()
  }
}
