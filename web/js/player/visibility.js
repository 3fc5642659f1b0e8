/** Whether a video can be seen: it is on the screen, and its page is not hidden behind another tab. */

/**
 * Watch an element until `signal` is aborted.
 * @param {HTMLElement} root
 * @param {HTMLVideoElement} video in it
 * @param {(seen: boolean) => void} onChange
 * @param {AbortSignal} signal
 */
export function watchVisibility(root, video, onChange, signal) {
  let onScreen = false
  const report = () => onChange(onScreen && !document.hidden)
  const observer = new IntersectionObserver((entries) => {
    onScreen = Boolean(entries.at(-1)?.isIntersecting)
    report()
  })
  observer.observe(root)
  signal.addEventListener("abort", () => observer.disconnect())
  // All packs share the document, so there is no listener on it. A video that plays in a hidden page still reports its
  // time, and the next animation frame comes when the page is shown again.
  const reportWhenShown = () =>
    requestAnimationFrame(() => {
      if (document.hidden) reportWhenShown()
      else if (!signal.aborted) report()
    })
  const pauseIfHidden = () => {
    if (!document.hidden) return
    report()
    reportWhenShown()
  }
  video.addEventListener("timeupdate", pauseIfHidden, { signal })
}
