/**
 * The player: one element that holds everything, made once per node. It knows ComfyUI only by what it is given.
 */

import { badges } from "./badges.js"
import { connectToCanvas } from "../parts/canvas_events.js"
import { Compare } from "./compare.js"
import { Controls } from "./controls.js"
import { Drawer } from "./drawer.js"
import { download, element } from "./elements.js"
import { ENDINGS, SPEEDS, following } from "./frames.js"
import { listenToKeys } from "./keyboard.js"
import { LiveStage } from "./live.js"
import { readResult, snapshotName, viewRoute } from "./payload.js"
import { Playback } from "./playback.js"
import { Strip } from "./strip.js"
import { Timeline } from "./timeline.js"

const THUMBNAIL_WIDTH = 96
const HEIGHT = 260 // pixels of the smallest player; the strip comes on top
const STRIP_HEIGHT = 46

export class VideoPlayer {
  #host
  #t
  #result = null
  #session = null
  #parts
  #playback
  #watch = null
  #onScreen = false
  #video = element("video", { class: "cvx-picture", playsinline: "", preload: "auto", tabindex: "-1" })
  #layers = element("div", { class: "cvx-layers" }, this.#video)
  #message = element("p", { class: "cvx-message" })
  #stage = element("div", { class: "cvx-stage" }, this.#layers, this.#message)
  #badges = element("div", { class: "cvx-badges" })

  /**
   * @param {Object} host what the player needs of ComfyUI
   * @param {(key: string, values?: Object) => string} host.t words
   * @param {(route: string) => string} host.address the URL of a route
   * @param {() => import("./session.js").Session} host.session of this node; asked for once the node has its id
   * @param {(prompt: string) => void} host.cancel stop a run
   * @param {(node: string) => string} host.nameOf a node's title by its execution id
   * @param {() => Object} host.canvas
   * @param {() => boolean} host.classic whether the classic renderer is on
   */
  constructor(host) {
    this.#host = host
    this.#t = host.t
    this.#video.muted = true
    this.#playback = new Playback(this.#video, {
      onFrame: () => this.#showFrame(),
      onChange: () => this.#notePlaying(),
    })
    const actions = this.#actions()
    this.#parts = {
      compare: new Compare({ t: this.#t, stage: this.#stage, layers: this.#layers, onChange: () => this.#showState() }),
      live: new LiveStage({ t: this.#t, cancel: host.cancel, nameOf: host.nameOf, onChange: () => this.#showState() }),
      drawer: new Drawer({ t: this.#t, close: actions.toggleSettings }),
      timeline: new Timeline({ t: this.#t, seek: actions.seek, hold: (held) => this.#playback.setHeld(held) }),
      controls: new Controls({ t: this.#t, actions }),
      strip: new Strip({
        t: this.#t,
        show: (id) =>
          this.#showEntry(
            this.#session.entries.find((entry) => entry.result.id === id),
            true,
          ),
        compare: (id) => this.#parts.compare.setSource(id),
      }),
    }
    const { live, drawer, timeline, controls, strip } = this.#parts
    this.#stage.append(live.picture, live.bar, drawer.element)
    this.element = element("div", { class: "cogvideox-player", tabindex: "0", role: "group" })
    this.element.setAttribute("aria-label", this.#t("player"))
    const seek = element("div", { class: "cvx-seek" }, timeline.element, controls.label)
    this.element.append(this.#stage, seek, controls.element, this.#badges, strip.element)
    this.#listen(actions)
    this.#showState()
  }

  /** The least height in pixels that shows everything. */
  get minHeight() {
    return HEIGHT + (this.#parts.strip.element.hidden ? 0 : STRIP_HEIGHT)
  }

  /** Show a node's output. Without a video in it, what is shown stays. @param {boolean} fresh it has just been made */
  show(output, fresh) {
    const result = readResult(output)
    if (!result) return
    this.#session = this.#host.session()
    if (fresh) this.#parts.live.handle({ type: "result" })
    const entry = this.#session.choose(result, fresh)
    if (entry.result.id === this.#result?.id) return
    this.#playback.takeOver(this.#session)
    this.#showEntry(entry, (fresh ? null : this.#session.wanted) ?? !prefersStillness())
  }

  /** @param {Object} event of live_state.js @param {?Blob} blob the picture of a preview */
  live(event, blob) {
    this.#parts.live.handle(event, blob)
  }

  /** The node is on a graph: watch whether it can be seen. */
  attach() {
    this.#watch = new AbortController()
    const observer = new IntersectionObserver((entries) => this.#setSeen(entries.at(-1).isIntersecting))
    observer.observe(this.element)
    const { signal } = this.#watch
    signal.addEventListener("abort", () => observer.disconnect())
    document.addEventListener("visibilitychange", () => this.#setSeen(this.#onScreen), { signal })
    if (this.#result) this.#load(this.#session.wanted ?? !prefersStillness())
  }

  /** The node has left its graph: let go of everything that costs something. */
  detach() {
    this.#watch?.abort()
    this.#parts.live.drop()
    this.#parts.compare.setMode("off")
    this.#setSeen(false)
    this.#playback.unload()
  }

  #setSeen(onScreen) {
    this.#onScreen = onScreen
    this.#playback.setSeen(onScreen && !document.hidden)
  }

  #actions() {
    const playback = this.#playback
    return {
      toggle: () => this.#result && playback.toggle(),
      step: (frames) => this.#result && playback.step(frames),
      seek: (frame) => this.#result && playback.seek(frame),
      nextSpeed: () => playback.setSpeed(following(SPEEDS, playback.speed)),
      nextEnding: () => playback.setEnding(following(ENDINGS, playback.ending)),
      nextCompare: () => this.#parts.compare.nextMode(),
      toggleMute: () => this.#setMuted(!this.#video.muted),
      toggleSettings: () => this.#toggleSettings(),
      toggleFullscreen: () => this.#toggleFullscreen(),
      snapshot: () => this.#saveFrame(),
    }
  }

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

  #showEntry(entry, wanted) {
    const { result } = entry
    const { controls, timeline, drawer, compare } = this.#parts
    this.#result = result
    this.#session.shown = result.id
    timeline.setClip(result, [...result.checks.black, ...result.checks.frozen])
    controls.setResult(result, this.#urlOf(result))
    drawer.setResult(result)
    compare.setSources(this.#sources())
    this.#setMuted(this.#session.muted || !result.has_audio)
    this.#badges.replaceChildren(...badges(result.checks, result.frames, this.#t).map((badge) => this.#badge(badge)))
    this.#showStrip()
    this.#load(wanted)
  }

  #load(wanted) {
    this.#showMessage(null)
    this.#playback.load(this.#urlOf(this.#result), this.#result, wanted)
  }

  #urlOf({ file, id }) {
    return this.#host.address(viewRoute(file, id))
  }

  /** @returns {import("./compare.js").Source[]} */
  #sources() {
    const { reference, id } = this.#result
    const others = this.#session.others().map(({ number, result }) => ({
      key: result.id,
      label: this.#t("resultNumber", { number }),
      url: this.#urlOf(result),
      moves: true,
    }))
    if (!reference) return others.reverse()
    const url = this.#host.address(viewRoute(reference, id))
    return [{ key: "reference", label: this.#t("reference"), url, moves: reference.frames > 1 }, ...others.reverse()]
  }

  #showStrip() {
    this.#parts.strip.setSession(this.#session)
    this.element.style.setProperty("--cvx-height", `${this.minHeight}px`)
    this.#host.canvas().setDirty(true, true) // the classic canvas asks for the least height when it draws
  }

  #badge({ text, hint, level, frame }) {
    const made = element("button", { type: "button", class: `cvx-badge cvx-${level}` }, text)
    made.title = hint
    if (frame !== null) made.addEventListener("click", () => this.#goTo(frame))
    return made
  }

  #goTo(frame) {
    this.#playback.step(frame - this.#playback.frame)
  }

  #showFrame() {
    const { frame, clip } = this.#playback
    this.#parts.timeline.setFrame(frame)
    this.#parts.controls.setFrame(frame, clip)
    this.#parts.compare.follow(this.#playback, this.#video.currentTime)
  }

  #notePlaying() {
    const { wanted, speed, ending } = this.#playback
    if (this.#session) Object.assign(this.#session, { wanted, speed, ending })
    this.#showState()
  }

  #showState() {
    if (!this.#parts) return // the parts tell of themselves while they are made
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

  #showMessage(key) {
    this.#message.hidden = key === null
    this.#message.textContent = key === null ? "" : this.#t(key)
  }

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

  /** The frame that is shown, as a picture of the video's own size or narrower. */
  #picture(width) {
    const { videoWidth, videoHeight } = this.#video
    const canvas = element("canvas", { width, height: Math.round((width / videoWidth) * videoHeight) })
    canvas.getContext("2d").drawImage(this.#video, 0, 0, canvas.width, canvas.height)
    return canvas
  }

  #saveFrame() {
    if (!this.#video.videoWidth) return
    const name = snapshotName(this.#result.file.filename, this.#playback.frame)
    this.#picture(this.#video.videoWidth).toBlob((blob) => {
      const url = URL.createObjectURL(blob)
      download(url, name)
      setTimeout(() => URL.revokeObjectURL(url), 0)
    }, "image/png")
  }

  #makeThumbnail() {
    const entry = this.#session?.entries.find(({ result }) => result.id === this.#result.id)
    if (!entry || entry.thumbnail) return
    entry.thumbnail = this.#picture(THUMBNAIL_WIDTH).toDataURL("image/jpeg", 0.7)
    this.#showStrip()
  }
}

function prefersStillness() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches
}
