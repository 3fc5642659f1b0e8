"""Help and locales in the real frontend: the Info tab shows our pages, in English and in Chinese, in both renderers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.browser import Canvas
from tests.support.host import Host
from tests.support.words import help_text, locale

NODES = ("CogVideoXLoadModel", "CogVideoXSampler", "CogVideoXVideoPlayer")

# Whether a node of a type is selected, with its tools next to it. Until then it is put alone into the graph and
# selected: a page that has just opened may yet put its last workflow there, and shows the tools only for a change of
# selection.
SELECT = """
(type) => {
  const graph = app.rootGraph
  let node = graph.nodes.find((one) => one.type === type)
  if (node && app.canvas.selectedItems.has(node) && document.querySelector('[data-testid="info-button"]')) return true
  if (!node) {
    graph.clear()
    node = LiteGraph.createNode(type)
    graph.add(node)
    node.pos = [300, 200]
    Object.assign(app.canvas.ds, {scale: 1, offset: [0, 0]})
  }
  app.canvas.deselectAll()
  app.canvas.selectNode(node)
  app.canvas.setDirty(true, true)
}
"""

# What is written on a new node of a type.
READ = """
(type) => {
  const node = LiteGraph.createNode(type)
  return {
    title: node.title,
    shown: Object.fromEntries([
      ...node.inputs.map((input) => [input.name, input.label ?? input.localized_name]),
      ...(node.widgets ?? []).map((widget) => [widget.name, widget.label]),
    ]),
  }
}
"""

HELP = ".node-help-content"
PICTURE_IS_THERE = f"() => document.querySelector('{HELP} img')?.naturalWidth > 100"


@pytest.fixture
def in_chinese(open_page: Canvas) -> Iterator[Canvas]:
    """The page in Chinese; English again afterwards, for the tests that share the host."""
    open_page.set_setting("Comfy.Locale", "zh")
    open_page.open()
    open_page.page.wait_for_load_state("networkidle")
    yield open_page
    open_page.set_setting("Comfy.Locale", "en")
    open_page.open()


def open_help(canvas: Canvas, node_id: str, title: str) -> str:
    """The text of the Info tab of a node, once its page and its picture are there."""
    canvas.page.wait_for_function(SELECT, arg=node_id, polling=500)
    canvas.page.get_by_test_id("info-button").click()
    canvas.page.locator(HELP).get_by_role("heading", level=1, name=title).wait_for()
    canvas.page.wait_for_function(PICTURE_IS_THERE)
    return canvas.page.locator(HELP).inner_text()


def title_of(page: str) -> str:
    return page.splitlines()[0].lstrip("# ")


def pieces(page: str) -> list[str]:
    """The last cells of its tables, which its rendering must contain as they are."""
    cells = [line.strip("| ").split(" | ")[-1] for line in page.splitlines() if line.startswith("| ")]
    return [cell for cell in cells if not set(cell) & set("`*[|")]


@pytest.mark.parametrize("node_id", NODES)
def test_the_info_tab_shows_our_page(open_page: Canvas, node_id: str) -> None:
    page = help_text(node_id, "en")
    shown = open_help(open_page, node_id, title_of(page))
    assert [piece for piece in pieces(page) if piece not in shown] == []
    assert open_page.console_errors == []
    # The frontend asks for a page of the language first, also of English.
    assert [request for request in open_page.failed_requests if not request.endswith(f"/{node_id}/en.md")] == []


def test_a_chinese_user_reads_chinese(in_chinese: Canvas) -> None:
    for node_id in NODES:
        read, words = in_chinese.evaluate(READ, node_id), locale("zh")[node_id]
        assert read["title"] == words["display_name"]
        for name, word in words["inputs"].items():
            assert read["shown"][name] == word["name"]
        page = help_text(node_id, "zh")
        shown = open_help(in_chinese, node_id, title_of(page))
        assert [piece for piece in pieces(page) if piece not in shown] == []
    in_chinese.check()


def test_the_host_gives_its_words_to_the_frontend(open_page: Canvas, host: Host) -> None:
    served = open_page.evaluate("async () => (await window.app.api.getCustomNodesI18n()).zh.nodeDefs")
    assert served == locale("zh")


@pytest.mark.parametrize(
    ("words", "title"),
    [
        ("i2v", "CogVideoX Image to Video"),
        ("text to video", "CogVideoX Empty Latent"),
        ("CogVideoSampler", "CogVideoX Sampler"),
        ("teacache", "CogVideoX Speed"),
    ],
)
def test_the_search_finds_nodes_by_everyday_and_former_words(open_page: Canvas, words: str, title: str) -> None:
    open_page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    search = open_page.page.get_by_role("dialog")
    search.get_by_role("combobox").or_(search.get_by_role("textbox")).first.fill(words)
    search.get_by_text(title, exact=True).first.wait_for()
    open_page.check()
