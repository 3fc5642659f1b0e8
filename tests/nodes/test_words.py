"""Help pages and locales against what the host says of our nodes, and what it serves of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest

from tests.support.host import PACK_NAME, Host
from tests.support.words import DOCS, INTERFACE, LANGUAGES, documented, help_file, help_text

CHINESE = re.compile(r"[\u4e00-\u9fff]")


def inputs_of(info: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and options of each input of a node."""
    for section in ("required", "optional"):
        for name, (_, *options) in info["input"].get(section, {}).items():
            yield name, options[0] if options else {}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", INTERFACE)
def test_a_page_tells_defaults_and_outputs_as_they_are(host: Host, node_id: str, language: str) -> None:
    info, told = host.object_info(node_id), documented(help_text(node_id, language))
    for name, options in inputs_of(info):
        if options.get("default") not in (None, ""):
            assert told[name] == [str(options["default"])], name
    assert {name for name in info["output_name"] if name not in told} == set()


@pytest.mark.parametrize("node_id", INTERFACE)
def test_chinese_says_all_that_english_says(host: Host, node_id: str) -> None:
    info, words = host.object_info(node_id), host.request("/i18n")["zh"]["nodeDefs"][node_id]
    assert words["display_name"].startswith("CogVideoX ")
    texts = [words["description"]]
    for name, options in inputs_of(info):
        assert words["inputs"][name]["name"], name
        texts += [words["inputs"][name]["tooltip"]] if options.get("tooltip") else []
    for index in range(len(info["output"])):
        assert words["outputs"][str(index)]["name"], index
        texts.append(words["outputs"][str(index)]["tooltip"])
    assert [text for text in texts if not CHINESE.search(text)] == []


def test_every_node_is_found_by_other_words(host: Host) -> None:
    for node_id in INTERFACE:
        assert host.object_info(node_id)["search_aliases"], node_id


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_host_serves_pages_and_pictures(host: Host, language: str) -> None:
    page = help_file("CogVideoXSampler", language).relative_to(DOCS).as_posix()
    for path in (page, "images/CogVideoXSampler.webp"):
        with urlopen(f"{host.url}/extensions/{PACK_NAME}/docs/{path}") as answer:
            assert answer.read() == (DOCS / path).read_bytes()
