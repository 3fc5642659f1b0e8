"""The video player in the real frontend, in both renderers: what is shown, by the pixels; and what the canvas keeps."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.browser import EMPTY, Canvas
from tests.support.host import Host
from tests.support.player_page import (
    FIRST_VIDEO,
    FPS,
    FRAMES,
    HEIGHT,
    OTHER_VIDEO,
    STEPS,
    WIDTH,
    PlayerPage,
    graph_node,
)

SCRUB_SECONDS = 30
# What a player without a video says in Chinese; escaped, as Windows reads Python files in its own encoding.
CHINESE_EMPTY = "\u8fd0\u884c\u5de5\u4f5c\u6d41\u540e\uff0c\u89c6\u9891\u5c06\u663e\u793a\u5728\u8fd9\u91cc"
SIDE_PANEL = "Comfy.RightSidePanel.IsOpen"

GRAPH_SHAPE = """
() => ({
  nodes: app.rootGraph.nodes.map((node) => [node.type, (node.widgets ?? [])
    .filter((widget) => widget.serialize !== false).map((widget) => widget.value)]),
  links: [...app.rootGraph.links.values()].map((link) =>
    [Number(link.origin_id), link.origin_slot, Number(link.target_id), link.target_slot]),
})
"""


@pytest.fixture
def player(open_page: Canvas) -> PlayerPage:
    return PlayerPage(open_page)


@pytest.fixture
def shown(player: PlayerPage) -> PlayerPage:
    """A player that shows its video, paused on the first frame."""
    player.build()
    player.run()
    player.pause()
    player.press("Home")
    assert player.number() == 0
    return player


# ---- the video


def test_there_is_one_video_of_the_right_size_and_length(player: PlayerPage):
    player.build()
    player.run()
    assert player.page.locator("video").count() == 1
    own = "(id) => Object.hasOwn(app.rootGraph.getNodeById(id), 'onDrawBackground')"
    assert not player.page.evaluate(own, player.ids["player"]), "what other packs draw on nodes is not drawn here"
    assert (player.video("videoWidth"), player.video("videoHeight")) == (WIDTH, HEIGHT)
    assert player.video("duration") == pytest.approx(FRAMES / FPS, abs=0.01)
    assert player.root.get_by_role("slider", name="Frames").get_attribute("aria-valuemax") == str(FRAMES)
    assert player.root.get_by_text(f"{FPS} fps", exact=True).is_visible()
    player.canvas.check()


def test_it_plays_by_itself_and_stops_at_a_click(player: PlayerPage):
    player.build()
    player.run()
    player.page.wait_for_function("(selector) => document.querySelector(selector).currentTime > 0.5", arg=FIRST_VIDEO)
    player.root.locator(".cvx-stage").click()
    assert player.number() == player.label()
    player.canvas.check()


def test_who_wants_no_motion_gets_none(player: PlayerPage):
    player.page.emulate_media(reduced_motion="reduce")
    player.build()
    player.run()
    assert player.number() == 0
    assert player.button("Play (Space)").is_visible()
    player.page.emulate_media(reduced_motion="no-preference")


def test_a_click_on_the_scrub_bar_shows_the_frame_there(shown: PlayerPage):
    shown.page.mouse.click(*shown.scrub_position(0.7))
    assert (shown.number(), shown.label()) == (14, 14)
    shown.page.mouse.click(*shown.scrub_position(0.02))
    assert (shown.number(), shown.label()) == (0, 0)
    shown.canvas.check()


def test_twenty_of_twenty_steps_land_on_their_frame(shown: PlayerPage):
    landed = []
    for step in range(FRAMES - 1):
        if step % 3 == 0:
            shown.button("One frame on").click()
        else:
            shown.press((".", "ArrowRight")[step % 2])
        landed.append(shown.number())
    assert landed == list(range(1, FRAMES))
    shown.press(".")
    assert shown.number() == 0, "from the last frame it goes on at the first"
    shown.press(",", "ArrowLeft", "ArrowLeft")
    assert (shown.number(), shown.label()) == (FRAMES - 3, FRAMES - 3)
    shown.press("Shift+ArrowLeft", "End")
    assert shown.number() == FRAMES - 1


def test_a_step_out_of_playing_lands_on_its_frame(shown: PlayerPage):
    """A video that was still playing when it was sought went on for a frame."""
    for _ in range(10):
        before = shown.video("currentTime")
        shown.press("Space")
        moved = "([selector, before]) => document.querySelector(selector).currentTime !== before"
        shown.page.wait_for_function(moved, arg=[FIRST_VIDEO, before])
        shown.press(",")
        assert shown.number() == shown.label()


def test_back_and_forth(shown: PlayerPage):
    shown.press("l")
    assert shown.button("At the end: backwards").is_visible()
    shown.page.evaluate(
        "(selector) => { window.seen = []; new MutationObserver(() => window.seen.push("
        "Number(document.querySelector(selector).getAttribute('aria-valuenow')))).observe("
        "document.querySelector(selector), {attributeFilter: ['aria-valuenow']}) }",
        ".cvx-timeline",
    )
    shown.press("Space")
    falls = "() => window.seen.some((frame, index) => index > 1 && frame < window.seen[index - 1] && frame > 2)"
    shown.page.wait_for_function(falls)
    shown.page.wait_for_function(
        "() => { const low = window.seen.lastIndexOf(1); return low > 5 && low < window.seen.length - 3 }"
    )
    shown.root.get_by_role("button", name="Speed").click()
    shown.page.wait_for_function("() => window.seen.length > 60")
    jumps = "() => Math.max(...window.seen.slice(1).map((frame, index) => Math.abs(frame - window.seen[index])))"
    assert shown.page.evaluate(jumps) < FRAMES // 2, "another speed goes on from the frame that is shown"
    shown.press("Space", "l", "l")
    assert shown.button("At the end: from the start").is_visible()


def test_speed_goes_round(shown: PlayerPage):
    for speed in (2, 0.25, 0.5, 1):
        shown.root.get_by_role("button", name="Speed").click()
        assert shown.video("playbackRate") == speed


def test_the_whole_screen(shown: PlayerPage):
    shown.press("f")
    shown.page.wait_for_function("() => document.fullscreenElement?.classList.contains('cogvideox-player')")
    shown.page.keyboard.press("f")
    shown.page.wait_for_function("() => !document.fullscreenElement")
    assert shown.number() == 0


def test_sound_is_off_until_it_is_wanted_and_then_stays_on(player: PlayerPage):
    player.build(tone=graph_node("ProbeTone", seconds=2.0), player={"audio": ["tone", 0]})
    player.run()
    assert player.video("muted") is True
    player.button("Sound on").click()
    assert player.video("muted") is False
    player.run_again(shade=0.7)
    assert player.video("muted") is False
    player.press("m")
    assert player.video("muted") is True


def test_it_speaks_the_language_of_the_settings(host: Host, open_canvas: Callable[[Host], Canvas]):
    """On a page of its own: after a change of language the frontend opens the workflow again, at some time."""
    language = "/settings/Comfy.Locale"
    host.post(language, "zh")
    try:
        canvas = open_canvas(host)
        for nodes_2 in (False, True):
            canvas.use_nodes_2(nodes_2)
            player = PlayerPage(canvas)
            player.build()
            player.root.get_by_text(CHINESE_EMPTY).wait_for()
    finally:
        host.post(language, "en")


# ---- files


def test_save_gives_the_mp4_and_snapshot_the_frame(shown: PlayerPage, host: Host, tmp_path: Path):
    with shown.page.expect_download() as saving:
        shown.root.get_by_role("link", name="Download the video").click()
    name = saving.value.suggested_filename
    saving.value.save_as(tmp_path / name)
    (file,) = host.output_path("player").glob(f"*{name}")
    assert (tmp_path / name).read_bytes() == file.read_bytes()
    shown.press("ArrowRight", "ArrowRight", "ArrowRight")
    assert shown.number() == 3
    with shown.page.expect_download() as saving:
        shown.press("s")
    assert saving.value.suggested_filename.endswith("frame_0004.png")
    saving.value.save_as(tmp_path / "frame.png")
    with Image.open(tmp_path / "frame.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (WIDTH, HEIGHT))
        pixels = np.asarray(picture.convert("L"))[HEIGHT // 2]
    assert [bool(pixels[4 + 8 * bit] > 100) for bit in range(4)] == [True, True, False, False]


def test_a_long_scrub_leaves_no_blobs(shown: PlayerPage):
    shown.canvas.count_blobs()
    shown.page.mouse.move(*shown.scrub_position(0))
    shown.page.mouse.down()
    end, step = time.monotonic() + SCRUB_SECONDS, 0
    while time.monotonic() < end:
        shown.page.mouse.move(*shown.scrub_position(abs(100 - step * 2 % 200) / 100))
        step += 1
    shown.page.mouse.up()
    with shown.page.expect_download():
        shown.press("s")
    shown.page.wait_for_function("() => window.liveBlobs.size === 0")
    shown.canvas.check()


@pytest.mark.parametrize("sound", [False, True], ids=["silent", "with sound"])
def test_dropping_the_mp4_restores_the_graph(player: PlayerPage, host: Host, tmp_path: Path, sound: bool):
    """With a picture of several megabytes as its input, and with sound."""
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (1200, 1200, 3), dtype=np.uint8)).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size > 4e6
    host.upload_image(tmp_path / "large.png", "large.png")
    more: dict[str, Any] = {"picture": graph_node("LoadImage", image="large.png")}
    inputs: dict[str, Any] = {"reference": ["picture", 0]}
    if sound:
        more["tone"] = graph_node("ProbeTone", seconds=2.0)
        inputs["audio"] = ["tone", 0]
    player.page.evaluate("() => app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions')")
    player.build(**more, player=inputs)
    player.run()
    assert player.root.get_by_role("button", name="Sound on").count() == int(sound)
    before, file = player.page.evaluate(GRAPH_SHAPE), tmp_path / "video.mp4"
    with player.page.expect_download() as saving:
        player.root.get_by_role("link", name="Download the video").click()
    saving.value.save_as(file)
    player.canvas.load_workflow(EMPTY, f"empty {time.time_ns()}")
    player.canvas.drop_file(file)
    player.page.wait_for_function("(count) => app.rootGraph.nodes.length === count", arg=len(before["nodes"]))
    assert player.page.evaluate(GRAPH_SHAPE) == before
    player.canvas.check()


# ---- the canvas


def test_the_wheel_zooms_and_keys_and_scrubbing_leave_the_node_alone(shown: PlayerPage):
    page, before = shown.page, shown.node()
    box = shown.root.locator(".cvx-stage").bounding_box()
    assert box is not None
    shown.press("Delete", "Backspace", ".")
    assert shown.node() == before
    page.mouse.move(*shown.scrub_position(0.1))
    page.mouse.down()
    page.mouse.move(*shown.scrub_position(0.9), steps=8)
    page.mouse.up()
    assert shown.node() == before
    assert (shown.number(), shown.label()) == (18, 18)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -120)
    page.wait_for_function("() => app.canvas.ds.scale > 1.05")
    shown.canvas.check()


def test_the_middle_button_moves_the_canvas(shown: PlayerPage):
    box = shown.root.locator(".cvx-stage").bounding_box()
    assert box is not None
    shown.page.evaluate("() => { window.before = app.canvas.ds.offset[0] }")
    shown.page.mouse.move(box["x"] + 50, box["y"] + 50)
    shown.page.mouse.down(button="middle")
    shown.page.mouse.move(box["x"] + 150, box["y"] + 50, steps=5)
    shown.page.mouse.up(button="middle")
    shown.page.wait_for_function("() => app.canvas.ds.offset[0] - window.before > 50")


def test_nothing_plays_out_of_sight(player: PlayerPage):
    player.build()
    player.run()
    paused = "([selector, wanted]) => (document.querySelector(selector)?.paused ?? true) === wanted"
    player.page.wait_for_function(paused, arg=[FIRST_VIDEO, False])
    player.page.evaluate("() => { app.canvas.ds.offset[0] -= 5000; app.canvas.setDirty(true, true) }")
    player.page.wait_for_function(paused, arg=[FIRST_VIDEO, True])
    player.page.evaluate("() => { app.canvas.ds.offset[0] += 5000; app.canvas.setDirty(true, true) }")
    player.page.wait_for_function(paused, arg=[FIRST_VIDEO, False])
    # Another tab in front. Headless Chromium hides no page, so this one only says that it is hidden.
    player.page.evaluate("() => Object.defineProperty(document, 'hidden', { configurable: true, value: true })")
    player.page.wait_for_function(paused, arg=[FIRST_VIDEO, True])
    player.page.evaluate("() => delete document.hidden")
    player.page.wait_for_function(paused, arg=[FIRST_VIDEO, False])


def test_collapsing_resizing_and_the_side_panel(shown: PlayerPage):
    page, node = shown.page, shown.ids["player"]
    page.evaluate("(id) => app.rootGraph.getNodeById(id).collapse()", node)
    page.wait_for_function("() => !document.querySelector('.cogvideox-player')?.checkVisibility()")
    page.evaluate("(id) => app.rootGraph.getNodeById(id).collapse()", node)
    page.wait_for_function("() => document.querySelector('.cogvideox-player')?.checkVisibility()")
    page.evaluate(
        "(id) => { app.rootGraph.getNodeById(id).setSize([620, 640]); app.canvas.setDirty(true, true) }", node
    )
    page.wait_for_function("() => document.querySelector('.cogvideox-player').clientWidth > 540")
    shown.press(".")
    assert shown.number() == 1
    shown.canvas.set_setting(SIDE_PANEL, True)
    page.evaluate("(id) => { app.canvas.selectNode(app.rootGraph.getNodeById(id)) }", node)
    page.get_by_test_id("properties-panel").wait_for()
    page.evaluate("() => app.canvas.setDirty(true, true)")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate("() => document.querySelector('.cogvideox-player').clientWidth") > 540
    shown.canvas.set_setting(SIDE_PANEL, False)
    assert page.locator("video").count() == 1
    shown.canvas.check()


def test_another_tab_and_back(shown: PlayerPage):
    shown.press(*["."] * 4)
    shown.root.get_by_role("button", name="Speed").click()
    source = shown.source()
    shown.canvas.load_workflow(EMPTY, f"other {time.time_ns()}")
    assert shown.root.count() == 0
    shown.page.evaluate("() => app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    shown.wait_for_video()
    assert shown.source() == source
    assert shown.page.locator("video").count() == 1
    assert shown.video("playbackRate") == 2
    shown.press("Home", ".")
    assert shown.number() == 1
    shown.canvas.check()


def test_the_other_renderer_and_back(shown: PlayerPage):
    other = not shown.page.evaluate("() => LiteGraph.vueNodesMode")
    shown.press(".", ".")
    shown.canvas.use_nodes_2(other)
    shown.root.wait_for()
    assert shown.page.locator("video").count() == 1
    shown.press(".")
    assert shown.number() == 3
    shown.canvas.use_nodes_2(not other)
    shown.root.wait_for()
    shown.press(".")
    assert (shown.number(), shown.label()) == (4, 4)
    assert shown.page.locator("video").count() == 1
    shown.canvas.check()


# ---- comparing and measuring


def test_a_reference_image_is_compared_and_measured(player: PlayerPage):
    player.build(
        still=graph_node("ProbeNumberedFrames", frames=1, width=WIDTH, height=HEIGHT, shade=1.0),
        player={"reference": ["still", 0]},
    )
    player.run()
    player.pause()
    player.press("Home")
    assert player.button("first frame 99 dB").is_visible()
    stage, other = player.root.locator(".cvx-stage"), player.root.locator("img.cvx-other")
    assert other.count() == 0
    for mode in ("wipe", "side", "difference"):
        player.press("c")
        assert stage.get_attribute("data-compare") == mode
        assert other.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == WIDTH
    assert brightest(stage.screenshot()) < 60, "frame 0 is the reference: no difference"
    player.press("ArrowRight", "ArrowRight", "ArrowRight")
    assert player.number() == 3
    assert brightest(stage.screenshot()) > 200
    player.button("Off").click()
    assert other.count() == 0
    player.canvas.check()


def test_a_reference_video_keeps_step(player: PlayerPage):
    player.build(
        other=graph_node("ProbeNumberedFrames", frames=FRAMES, width=WIDTH, height=HEIGHT, shade=0.8),
        made=graph_node("CreateVideo", images=["other", 0], fps=FPS),
        player={"reference_video": ["made", 0]},
    )
    player.run()
    player.press("c")
    assert player.page.locator("video").count() == 2
    player.page.wait_for_function("(one) => document.querySelector(one)?.currentTime > 0.3", arg=OTHER_VIDEO)
    player.pause()
    for frame in (3, 11, 20, 0):
        player.page.mouse.click(*player.scrub_position((frame + 0.5) / FRAMES))
        assert (player.number(), player.number(OTHER_VIDEO)) == (frame, frame)
    player.button("Off").click()
    assert player.page.locator("video").count() == 1


def test_a_shorter_reference_stays_on_its_last_frame(player: PlayerPage):
    short = 6
    player.build(
        other=graph_node("ProbeNumberedFrames", frames=short, width=WIDTH, height=HEIGHT, shade=0.8),
        made=graph_node("CreateVideo", images=["other", 0], fps=FPS),
        player={"reference_video": ["made", 0]},
    )
    player.run()
    player.pause()
    player.press("c", "l", "l", "Home", *["."] * 3)
    assert player.number() == 3 and wait_for_number(player, 3, OTHER_VIDEO)
    player.page.evaluate(
        "(one) => { window.sought = 0;"
        " document.querySelector(one).addEventListener('seeking', () => { window.sought += 1 }) }",
        OTHER_VIDEO,
    )
    player.press("Space")
    player.page.wait_for_function("(one) => document.querySelector(one).ended", arg=FIRST_VIDEO)
    assert player.number() == FRAMES - 1 and wait_for_number(player, short - 1, OTHER_VIDEO)
    assert player.page.evaluate("() => window.sought") < 6, "sought once or twice, and not for every frame"
    player.canvas.check()


def test_the_wipe_moves_by_pointer_and_keys(player: PlayerPage):
    player.build(
        still=graph_node("EmptyImage", width=WIDTH, height=HEIGHT, batch_size=1, color=0xFF0000),
        player={"reference": ["still", 0]},
    )
    player.run()
    player.pause()
    player.press("c")
    divider, stage = (
        player.root.get_by_role("slider", name="Where the pictures meet"),
        player.root.locator(".cvx-stage"),
    )
    box, frame, before = stage.bounding_box(), player.label(), player.node()
    assert box is not None
    player.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.4)
    player.page.mouse.down()
    player.page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] * 0.4, steps=5)
    player.page.mouse.up()
    assert int(divider.get_attribute("aria-valuenow") or 0) == pytest.approx(25, abs=2)
    divider.focus()
    player.page.keyboard.press("ArrowRight")
    assert int(divider.get_attribute("aria-valuenow") or 0) == pytest.approx(27, abs=2)
    assert (player.label(), player.node()) == (frame, before)


def test_black_and_frozen_frames_are_flagged(player: PlayerPage):
    player.build(
        black=graph_node("EmptyImage", width=WIDTH, height=HEIGHT, batch_size=3, color=0),
        all=graph_node("ImageBatch", image1=["frames", 0], image2=["black", 0]),
        player={"images": ["all", 0]},
    )
    player.run()
    player.button("black 1, 22–24").click()
    assert player.number() == 0
    player.button("frozen 22–24").click()
    assert player.label() == FRAMES
    assert player.root.locator(".cvx-mark").count() == 3


def test_settings_are_shown_and_copied(player: PlayerPage):
    player.canvas.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    player.build(
        live=graph_node("ProbeLivePreview", steps=3, seconds_per_step=0, seed=41), frames={"after": ["live", 0]}
    )
    player.run()
    player.press("i")
    drawer = player.root.get_by_role("region", name="Settings")
    assert drawer.get_by_text("41", exact=True).is_visible()
    assert drawer.get_by_text(f"{WIDTH} × {HEIGHT}, {FRAMES} frames, {FPS} fps").is_visible()
    drawer.get_by_role("button", name="Copy").click()
    drawer.get_by_text("Copied").wait_for()
    copied = player.page.evaluate("() => navigator.clipboard.readText()")
    assert copied.splitlines()[:2] == ["Seed: 41", "Steps: 3"]
    drawer.get_by_role("button", name="Close").click()
    assert drawer.count() == 0 or not drawer.is_visible()


def test_the_last_results_are_kept_and_compared(player: PlayerPage):
    player.build()
    player.run()
    first = player.source()
    player.run_again(shade=0.7)
    second = player.source()
    assert first != second
    player.button("Show result 1").click()
    player.wait_for_video(second)
    assert player.source() == first
    assert player.root.locator(".cvx-strip img").count() == 2
    player.button("Compare with result 2").click()
    assert player.page.evaluate("(one) => document.querySelector(one).src", OTHER_VIDEO) == second
    player.pause()
    player.page.mouse.click(*player.scrub_position(0.52))
    assert (player.number(), player.number(OTHER_VIDEO)) == (10, 10)
    player.canvas.check()


# ---- a batch


def test_a_batch_of_three_is_three_clips_to_switch_between(player: PlayerPage, host: Host, tmp_path: Path):
    """Frame n of clip m says m * FRAMES + n."""
    player.build(frames={"frames": 3 * FRAMES}, player={"clips": 3})
    player.run()
    player.pause()
    player.press("Home", ".", ".")
    place = player.root.locator(".cvx-place")
    assert wait_for_number(player, 2) and (place.text_content(), player.label()) == ("1 / 3", 2)
    source = player.source()
    player.press("ArrowDown")
    player.wait_for_video(source)
    assert (place.text_content(), player.label()) == ("2 / 3", 2), "the same frame of the next clip"
    assert wait_for_number(player, FRAMES + 2)
    player.button("Next clip").click()
    assert wait_for_number(player, 2 * FRAMES + 2) and place.text_content() == "3 / 3"
    assert player.button("Next clip").is_visible() and player.page.locator("video").count() == 1
    with player.page.expect_download() as saving:
        player.root.get_by_role("link", name="Download the video").click()
    assert saving.value.suggested_filename.endswith("_00003_.mp4")
    player.press("ArrowDown")
    assert wait_for_number(player, 2) and place.text_content() == "1 / 3", "the first follows the last"
    player.button("Previous clip").click()
    assert wait_for_number(player, 2 * FRAMES + 2)
    player.canvas.check()


def test_clips_are_compared_and_remembered(player: PlayerPage):
    player.build(frames={"frames": 2 * FRAMES}, player={"clips": 2})
    player.run()
    player.pause()
    player.press("ArrowDown", "Home")
    assert wait_for_number(player, FRAMES)
    player.press("c")
    assert player.root.locator(".cvx-tag.cvx-right").text_content() == "clip 1"
    assert wait_for_number(player, 0, OTHER_VIDEO)
    player.button("Off").click()
    assert player.root.locator(".cvx-strip").is_hidden(), "one run is one result"
    player.run_again(shade=0.7)
    assert player.root.locator(".cvx-place").text_content() == "1 / 2", "a new result begins with its first clip"
    assert player.root.locator(".cvx-strip img").count() == 2
    newest = player.source()
    player.button("Show result 1").click()
    player.wait_for_video(newest)
    assert player.root.locator(".cvx-place").text_content() == "2 / 2", "the clip that was looked at"
    player.canvas.check()


def test_one_clip_has_no_switcher(shown: PlayerPage):
    assert shown.root.locator(".cvx-switcher").is_hidden()
    shown.press("ArrowDown", "ArrowUp")
    assert shown.number() == 0


@pytest.mark.parametrize("format", ["webm", "gif", "webp", "png"])
def test_every_format_is_played(player: PlayerPage, format: str):
    player.build(player={"format": format})
    player.run()
    player.pause()
    player.press("Home", ".", ".", ".")
    assert player.number() == 3
    assert player.video("duration") == pytest.approx(FRAMES / FPS, abs=0.01)
    save = player.root.locator(".cvx-save")
    if format == "png":
        assert re.fullmatch(
            r"Download the video; its pictures are in player.\d+_00001_", save.get_attribute("title") or ""
        )
    with player.page.expect_download() as saving:
        save.click()
    assert saving.value.suggested_filename.endswith(".mp4" if format == "png" else f".{format}")
    player.canvas.check()


@pytest.mark.parametrize("format", ["webm", "webp", "png"])
def test_dropping_another_format_restores_the_graph(player: PlayerPage, host: Host, tmp_path: Path, format: str):
    prefix = f"dropped/{time.time_ns()}"
    player.build(player={"format": format, "filename_prefix": prefix})
    player.run()
    before = player.page.evaluate(GRAPH_SHAPE)
    (file,) = host.output_path("dropped").glob(
        f"{Path(prefix).name}_00001_{'/00001' if format == 'png' else ''}.{format}"
    )
    player.canvas.load_workflow(EMPTY, f"empty {time.time_ns()}")
    player.canvas.drop_file(file)
    player.page.wait_for_function("(count) => app.rootGraph.nodes.length === count", arg=len(before["nodes"]))
    assert player.page.evaluate(GRAPH_SHAPE) == before
    player.canvas.check()


# ---- the live stage


def live_scene(player: PlayerPage, seconds_per_step: float, steps: int = STEPS) -> None:
    seed = time.time_ns() % (1 << 30)
    player.build(
        live=graph_node("ProbeLivePreview", steps=steps, seconds_per_step=seconds_per_step, seed=seed),
        frames={"after": ["live", 0]},
    )


def test_the_sampler_is_watched_until_the_video_is_there(player: PlayerPage):
    live_scene(player, 1.0)
    player.canvas.count_blobs()
    player.watch_live()
    player.canvas.run()
    picture = player.root.locator("img.cvx-live")
    picture.wait_for()
    player.page.wait_for_function("() => document.querySelector('.cvx-live').naturalWidth === 32")
    player.root.get_by_text(f"2 of {STEPS}").wait_for()
    assert player.root.get_by_text("left").is_visible()
    assert player.button("Cancel").is_visible()
    player.wait_for_video()
    assert player.root.get_attribute("data-shows") == "video"
    assert not picture.is_visible() and player.button("Cancel").count() == 0
    pictures, words = player.seen_live()
    assert len(pictures) == STEPS
    assert f"2 of {STEPS}" in "".join(words)
    assert player.page.evaluate("(urls) => urls.filter((url) => window.liveBlobs.has(url))", pictures) == []
    player.canvas.check()


def test_cancel_stops_the_run(player: PlayerPage, host: Host):
    live_scene(player, 0.3, steps=200)
    player.canvas.run()
    player.button("Cancel").click()
    player.root.get_by_text("The run was cancelled").wait_for()
    assert host.request("/queue")["queue_running"] == []
    assert not player.root.locator("img.cvx-live").is_visible()
    player.canvas.check()


# ---- another server


def test_a_server_that_comes_back_is_worked_with_again(
    start_host: Callable[..., Host], open_canvas: Callable[[Host], Canvas]
):
    """It dies in the middle of a run; what it was doing is no longer shown, and the next run shows its video."""
    host = start_host()
    canvas = open_canvas(host)
    for nodes_2 in (False, True):
        canvas.use_nodes_2(nodes_2)
        player = PlayerPage(canvas)
        live_scene(player, 0.3, steps=200)
        canvas.run()
        player.button("Cancel").wait_for()
        host.restart()
        player.page.wait_for_function("() => document.querySelector('.cogvideox-player').dataset.shows === 'nothing'")
        live_scene(player, 0.1)
        player.run()
        assert player.video("videoWidth") == WIDTH


def test_it_works_under_the_strict_content_policy(
    start_host: Callable[..., Host], open_canvas: Callable[[Host], Canvas]
):
    """`--disable-api-nodes` forbids blobs as videos and requests to anything else."""
    canvas = open_canvas(start_host("--disable-api-nodes"))
    for nodes_2 in (False, True):
        canvas.use_nodes_2(nodes_2)
        player = PlayerPage(canvas)
        live_scene(player, 0.2)
        player.run()
        player.pause()
        player.press("Home", ".")
        assert player.number() == 1
        with player.page.expect_download():
            player.press("s")
    canvas.check()


def wait_for_number(player: PlayerPage, number: int, video: str = FIRST_VIDEO) -> bool:
    """Whether the pixels of a resting video come to say this number."""
    deadline = time.monotonic() + 5
    while player.shown_number(video) != number and time.monotonic() < deadline:
        player.page.wait_for_timeout(20)
    return player.shown_number(video) == number


def brightest(screenshot: bytes) -> int:
    """The brightest of the middle rows of a picture of the stage, without what is above and below."""
    with Image.open(io.BytesIO(screenshot)) as picture:
        pixels = np.asarray(picture.convert("L"))
    height = len(pixels)
    return int(pixels[height * 4 // 10 : height * 6 // 10].max())
