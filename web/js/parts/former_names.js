/** Names that extensions of this pack had before they began with `cogvideox.`. */

const DISABLED = "Comfy.Extension.Disabled" // the setting that lists extensions by name

/** @type {Record<string, string>} */
const RENAMED = {
  "CogVideoX.Foreign": "cogvideox.foreign",
  "CogVideoX.Player": "cogvideox.player",
  "CogVideoX.Preview": "cogvideox.preview",
}

/** @type {string[] | undefined} */
let renamed

/**
 * Whether the user has disabled an extension under its former name. The frontend knows names only as they are in the
 * setting, which therefore gets the new ones; from the next start on, the frontend itself disables the extension.
 * @param {ComfySettings} settings
 * @param {string} name the present name
 */
export function wasDisabled(settings, name) {
  renamed ??= renameDisabled(settings)
  return renamed.includes(name)
}

/**
 * @param {ComfySettings} settings
 * @returns {string[]} present names of the extensions that were listed under a former one
 */
function renameDisabled(settings) {
  const listed = settings.get(DISABLED) ?? []
  const former = listed.filter((name) => name in RENAMED)
  if (former.length > 0) settings.set(DISABLED, [...new Set(listed.map((name) => RENAMED[name] ?? name))])
  return former.map((name) => RENAMED[name])
}
