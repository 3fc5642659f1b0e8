/** Stopping a run. */

/**
 * Cancel one prompt, whether it runs or waits. Where the server is too old for that, whatever runs with that id stops.
 * @param {{fetchApi: (route: string, options: Object) => Promise<Response>}} api ComfyUI's
 * @param {string} prompt its id
 */
export async function cancelRun(api, prompt) {
  const answer = await api.fetchApi(`/jobs/${prompt}/cancel`, { method: "POST" })
  if (answer.ok) return
  await api.fetchApi("/interrupt", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ prompt_id: prompt }),
  })
}
