/** What the clip that is shown can be compared with. Independent of the page. */

import { viewRoute } from "./payload.js"

/**
 * Its reference, then the other clips of its batch, then the other results, newest first.
 * @param {import("./session.js").Session} session
 * @param {import("../parts/strings.js").Translate} t
 * @param {(route: string) => string} address the URL of a route
 * @returns {import("./compare.js").Source[]}
 */
export function compareSources(session, t, address) {
  const entry = session.current
  if (!entry) return []
  const { id, reference } = entry.clips[entry.clip]
  /** @type {(key: string, label: string, result: import("./payload.js").Result) => import("./compare.js").Source} */
  const video = (key, label, result) => ({
    key,
    label,
    url: address(viewRoute(result.shown, result.id)),
    moves: true,
  })
  const clips = entry.clips.map((clip, index) => video(clip.id, t("clipNumber", { number: index + 1 }), clip))
  const results = session
    .others()
    .reverse()
    .map((other) => video(other.id, t("resultNumber", { number: other.number }), other.clips[other.clip]))
  const found = [...clips.filter(({ key }) => key !== id), ...results]
  if (!reference) return found
  const url = address(viewRoute(reference, id))
  return [{ key: "reference", label: t("reference"), url, moves: reference.frames > 1 }, ...found]
}
