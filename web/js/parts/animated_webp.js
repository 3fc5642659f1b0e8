/** Whether a picture file is animated, by its first bytes. */

/** How many bytes `isAnimatedWebp` reads: the header, the extended header and the name of the chunk after it. */
export const HEAD_BYTES = 34

/**
 * Whether a file is an animated WebP: RIFF....WEBP, the extended header VP8X, then a chunk ANIM.
 * @param {Uint8Array} head the first `HEAD_BYTES` of the file, or all of it
 */
export function isAnimatedWebp(head) {
  /** @type {(name: string, at: number) => boolean} */
  const named = (name, at) => [...name].every((letter, index) => head[at + index] === letter.charCodeAt(0))
  return named("RIFF", 0) && named("WEBP", 8) && named("VP8X", 12) && named("ANIM", 30)
}
