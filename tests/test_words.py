"""Help pages, locales and tables of troubles: there for every node, in both languages, and true to the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from tests import provision
from tests.support.sentences import is_said, is_value, templates
from tests.support.words import DOCS, INTERFACE, LANGUAGES, documented, help_file, help_text, locale, quoted

PICTURE = re.compile(r"!\[[^\]]+\]\((images/[^)]+)\)")
LARGEST_HELP = 1_500_000  # bytes of all pages and pictures
# What vue-i18n takes for syntax in some texts and shows as it is in others.
SYNTAX = re.compile(r"[@{}|]")
TROUBLES = (provision.REPO / "docs" / "troubleshooting.md").read_text(encoding="utf-8")

every_page = pytest.mark.parametrize(
    ("node_id", "language"), [(node_id, language) for node_id in INTERFACE for language in LANGUAGES]
)


@every_page
def test_a_node_has_a_page_about_all_its_inputs_with_a_picture(node_id: str, language: str):
    text = help_text(node_id, language)
    assert set(INTERFACE[node_id]["inputs"].get("required", [])) <= set(documented(text))
    assert set(INTERFACE[node_id]["inputs"].get("optional", [])) <= set(documented(text))
    (picture,) = PICTURE.findall(text)
    assert (DOCS / picture).is_file()
    assert quoted(text), "no common mistakes"


@every_page
def test_a_page_quotes_what_the_code_says(node_id: str, language: str):
    assert [sentence for sentence in quoted(help_text(node_id, language)) if not is_said(sentence)] == []


@pytest.mark.parametrize("node_id", INTERFACE)
def test_both_languages_quote_the_same(node_id: str):
    first, *others = (quoted(help_text(node_id, language)) for language in LANGUAGES)
    assert others == [first]


def test_help_is_small_and_about_our_nodes_only():
    assert sum(path.stat().st_size for path in DOCS.rglob("*") if path.is_file()) < LARGEST_HELP
    pages = {help_file(node_id, language) for node_id in INTERFACE for language in LANGUAGES}
    assert set(DOCS.rglob("*.md")) == pages
    used = {DOCS / picture for page in pages for picture in PICTURE.findall(page.read_text(encoding="utf-8"))}
    assert set((DOCS / "images").iterdir()) == used


def test_the_table_of_troubles_quotes_what_the_code_says():
    assert len(quoted(TROUBLES)) > 30
    assert [sentence for sentence in quoted(TROUBLES) if not is_said(sentence)] == []


@pytest.mark.parametrize(
    "sentence",
    [
        "num_frames=57; CogVideoX-5B was trained for up to 49 frames; use 49, or allow longer videos (allow_any_size)",
        "length=9001; CogVideoX takes 1 to 1025 frames",
        "x.safetensors is a Wan model, not a CogVideoX transformer",
        "x.safetensors is a Wan model, not a CogVideoX VAE; ComfyUI's Load Diffusion Model opens it, for its own nodes",
    ],
)
def test_a_sentence_the_code_says_is_known(sentence: str):
    assert is_said(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "length=50 is a bad number of frames for this model; try 49",
        "length=9001; CogVideoX takes 1 to 1025 frames; take 49",
        "length=9001; CogVideoX takes 1 to",
        "x.safetensors is a Wan model, not a CogVideoX VAE; give another one",
        "x.safetensors is a Flan model, not a CogVideoX VAE",
        "CogVideoX takes frames",
    ],
)
def test_a_sentence_the_code_does_not_say_is_noticed(sentence: str):
    assert not is_said(sentence)


@pytest.mark.parametrize("text", ["49", "x.safetensors", "(1, 16, 7)", "CogVideoX-5B", "No such file or directory"])
def test_values_that_stand_in_sentences(text: str):
    assert is_value(text)
    assert not is_value("the other one")


def test_the_templates_of_a_file():
    code = ast.parse('''
"""A docstring is none."""
def f(x):
    """Nor is this."""
    text = f"{x} holds `{f'nothing {x}' if x else 'letters'}`; " "give more" + y
    return x["ab"]
''')
    assert set(templates(code)) == {
        (None, " holds ", None, "; give more", None),
        (None, " holds ", None, ""),
        ("nothing ", None),
        ("letters",),
    }


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_a_locale_names_every_node_and_input(language: str):
    words = locale(language)
    assert set(words) == set(INTERFACE)
    for node_id, interface in INTERFACE.items():
        inputs = [*interface["inputs"].get("required", []), *interface["inputs"].get("optional", [])]
        assert set(inputs) <= set(words[node_id]["inputs"]), node_id
        assert set(words[node_id]["outputs"]) == {str(index) for index in range(len(interface["outputs"]))}, node_id


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_a_locale_has_no_syntax_of_messages(language: str):
    def texts(value):
        return [value] if isinstance(value, str) else [text for part in value.values() for text in texts(part)]

    assert [text for text in texts(locale(language)) if SYNTAX.search(text)] == []


def test_the_page_on_memory_is_what_its_command_prints():
    command = [sys.executable, str(provision.REPO / "benchmarks" / "memory.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    page = provision.REPO / "docs" / "memory.md"
    assert page.read_text(encoding="utf-8") == printed, "run benchmarks/memory.py --write"
