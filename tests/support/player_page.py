"""The video player on a page with the canvas: graphs with it, what it shows, and what its pixels say."""

from __future__ import annotations

import time
from typing import Any

from tests.support.browser import EMPTY, Canvas

PLAYER = ".cogvideox-player"
FRAMES, FPS, WIDTH, HEIGHT = 21, 10, 64, 48
STILL_SECONDS = 5  # in which a video reaches the frame it was sent to
STEPS = 4  # of the node that takes the part of a sampler

# A graph from a list of nodes: {name: {type, values: {widget: value}, links: {input: [name, output]}}}.
BUILD = """
(nodes) => {
  const made = {}
  let left = 0
  for (const [name, {type, values = {}}] of Object.entries(nodes)) {
    const node = LiteGraph.createNode(type)
    app.rootGraph.add(node)
    node.pos = [left, 60]
    left += node.size[0] + 40
    for (const widget of node.widgets ?? []) if (widget.name in values) widget.value = values[widget.name]
    made[name] = node
  }
  for (const [name, {links = {}}] of Object.entries(nodes)) {
    for (const [input, [origin, output]] of Object.entries(links)) {
      made[origin].connect(output, made[name], made[name].inputs.findIndex((slot) => slot.name === input))
    }
  }
  const [x, y] = made.player.pos
  Object.assign(app.canvas.ds, {scale: 1, offset: [500 - x, 150 - y]})
  app.canvas.setDirty(true, true)
  return Object.fromEntries(Object.entries(made).map(([name, node]) => [name, Number(node.id)]))
}
"""

# The number that a frame of ProbeNumberedFrames says, read from the pixels of a video; -1 without one.
READ_NUMBER = """
(selector) => {
  const video = document.querySelector(selector)
  if (!video?.videoWidth) return -1
  const canvas = document.createElement('canvas')
  canvas.width = video.videoWidth
  canvas.height = video.videoHeight
  const context = canvas.getContext('2d')
  context.drawImage(video, 0, 0)
  const column = canvas.width / 8
  const bit = (index) => context.getImageData((index + 0.5) * column, canvas.height / 2, 1, 1).data[1] > 100
  return [...Array(8).keys()].reduce((number, index) => number + (bit(index) << index), 0)
}
"""

# Note every picture that the live stage shows, and the text next to it.
WATCH_LIVE = """
() => {
  const [picture, words] = ['.cvx-live', '.cvx-live-text'].map((one) => document.querySelector(one))
  window.live = {pictures: new Set(), words: new Set()}
  const note = () => picture.hasAttribute('src') && window.live.pictures.add(picture.src)
  new MutationObserver(note).observe(picture, {attributeFilter: ['src']})
  new MutationObserver(() => window.live.words.add(words.textContent)).observe(words, {childList: true})
}
"""

IS_STILL = """
(selector) => {
  const video = document.querySelector(selector)
  return video.readyState >= 2 && !video.seeking && video.paused
}
"""
FIRST_VIDEO = f"{PLAYER} video:not(.cvx-other)"
OTHER_VIDEO = f"{PLAYER} video.cvx-other"


class PlayerPage:
    """A canvas page with one player on it."""

    def __init__(self, canvas: Canvas):
        self.canvas = canvas
        self.page = canvas.page
        self.root = self.page.locator(PLAYER)
        self.ids: dict[str, int] = {}

    def build(self, **inputs: Any) -> None:
        """An empty canvas, then numbered frames that go to a player. `inputs`: more nodes by name; "player" and
        "frames" as {input or widget: value or [node, output]}.
        """
        self.canvas.load_workflow(EMPTY, f"player {time.time_ns()}")
        more = {name: node for name, node in inputs.items() if name not in ("player", "frames")}
        frames = {"frames": FRAMES, "width": WIDTH, "height": HEIGHT, "shade": 1.0, **inputs.get("frames", {})}
        player = {"fps": FPS, "images": ["frames", 0], "filename_prefix": f"player/{time.time_ns()}"}
        player |= inputs.get("player", {})
        nodes = {
            **more,
            "frames": graph_node("ProbeNumberedFrames", **frames),
            "player": graph_node("CogVideoXVideoPlayer", **player),
        }
        self.ids = self.page.evaluate(BUILD, nodes)
        self.root.wait_for()

    def run(self) -> None:
        """Queue, and wait until the video can be seen."""
        before = self.source()
        self.canvas.run()
        self.wait_for_video(before)

    def run_again(self, **widgets: Any) -> None:
        """Run with other values of the frames' widgets."""
        self.page.evaluate(
            "([id, values]) => app.rootGraph.getNodeById(id).widgets.forEach((widget) => {"
            "  if (widget.name in values) widget.value = values[widget.name] })",
            [self.ids["frames"], widgets],
        )
        self.run()

    def wait_for_video(self, other_than: str | None = None) -> None:
        self.page.wait_for_function(
            "([selector, old]) => { const video = document.querySelector(selector);"
            " return video?.currentSrc && video.currentSrc !== old && video.readyState >= 2 }",
            arg=[FIRST_VIDEO, other_than],
            timeout=60_000,
        )

    def watch_live(self) -> None:
        """Begin to note what the live stage shows."""
        self.page.evaluate(WATCH_LIVE)

    def seen_live(self) -> tuple[list[str], list[str]]:
        """The addresses of the pictures it has shown, and the texts next to them."""
        return tuple(self.page.evaluate("() => [[...window.live.pictures], [...window.live.words]]"))

    def source(self) -> str | None:
        """The address of the video that is shown."""
        return self.page.evaluate("(selector) => document.querySelector(selector)?.currentSrc || null", FIRST_VIDEO)

    def video(self, key: str) -> Any:
        """A property of the video element."""
        return self.page.evaluate("([selector, key]) => document.querySelector(selector)[key]", [FIRST_VIDEO, key])

    def still(self, selector: str = FIRST_VIDEO) -> None:
        """Wait until the video rests on a frame."""
        self.page.wait_for_function(IS_STILL, arg=selector)

    def number(self, selector: str = FIRST_VIDEO) -> int:
        """The number that the pixels of the frame say, once the video rests on the frame that the scrub bar names."""
        deadline = time.monotonic() + STILL_SECONDS
        while True:
            self.still(selector)
            number = self.page.evaluate(READ_NUMBER, selector)
            if number == self.label() or time.monotonic() > deadline:
                return number
            self.page.wait_for_timeout(20)

    def shown_number(self, selector: str) -> int:
        """The number that the pixels of a resting video say."""
        self.still(selector)
        return self.page.evaluate(READ_NUMBER, selector)

    def label(self) -> int:
        """The number of the frame as the scrub bar has it, from 0."""
        return int(self.root.get_by_role("slider", name="Frames").get_attribute("aria-valuenow") or 0) - 1

    def press(self, *keys: str) -> None:
        self.root.focus()
        for key in keys:
            self.page.keyboard.press(key)

    def button(self, name: str) -> Any:
        return self.root.get_by_role("button", name=name)

    def pause(self) -> None:
        if self.button("Pause").count():
            self.button("Pause").click()
        self.still()

    def scrub_position(self, share: float) -> tuple[float, float]:
        """Window coordinates of a position on the scrub bar."""
        box = self.root.locator(".cvx-timeline .cvx-track").bounding_box()
        assert box is not None
        return box["x"] + box["width"] * share, box["y"] + box["height"] / 2

    def node(self, name: str = "player") -> dict[str, Any]:
        """Where a node is and how large."""
        read = """(id) => {
          const node = app.rootGraph.getNodeById(id)
          return node && {pos: [...node.pos], size: [...node.size]}
        }"""
        return self.page.evaluate(read, self.ids[name])


def graph_node(type_name: str, **inputs: Any) -> dict[str, Any]:
    """A node for `BUILD`; lists are links."""
    links = {name: value for name, value in inputs.items() if isinstance(value, list)}
    return {"type": type_name, "values": {k: v for k, v in inputs.items() if k not in links}, "links": links}
