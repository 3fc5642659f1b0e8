"""Write docs/foreign-workflows.md from the table in nodes/foreign/: python tools/make_foreign_page.py"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests import provision
from tests.support.foreign_graphs import rules

PAGE = provision.REPO / "docs" / "foreign-workflows.md"

HEAD = """\
# Workflows of the CogVideoX wrapper

Workflows made with kijai's ComfyUI-CogVideoXWrapper open and run here. Its {count} nodes become ours, or ComfyUI's, by
one table: [nodes/foreign/table.py](../nodes/foreign/table.py). This page is printed from it (`python
tools/make_foreign_page.py`), and a test sees to it that it stays so.

- **On the canvas** a workflow is rewritten as it opens, subgraphs too. A message tells what is not carried over. The
  file stays as it was until you save.
- **Prompts** that are queued through the API in the wrapper's ids are rewritten before ComfyUI looks at them. What is
  not carried over is in the server's log. With a node that has no counterpart and on which the video depends (a
  ControlNet, say), the prompt is refused with the reason instead. (A prompt file that is dropped on the canvas is
  opened by ComfyUI alone, which leaves out what it does not know: queue it, or open the workflow.)
- **Replace Node** in ComfyUI's list of errors is there for what was not rewritten, as when the extension
  *cogvideox.foreign* is switched off: it exchanges single nodes, without their context. Model names and schedulers are
  left for you to choose, and nodes to add: an empty latent, a loader for the VAE, a link of the clip to each prompt.

While the wrapper, or anything with one of its node ids, is installed, nothing of this happens: its nodes are its
business.

Models are chosen where the official download, or the wrapper's own, lies in a folder of ComfyUI's; one that is not
there is named, and its name stands in the loader for you to put it there or to choose another. Nodes of other packs in
the workflow (of VideoHelperSuite, say) stay as they are.

A video need not be the same, bit for bit: noise is drawn in the official order here, samplers other than DDIM and
DPM++ 2M SDE are ComfyUI's, and texts are encoded at 226 tokens.
"""

CANVAS = """\
## What is left on the canvas

A node without a counterpart stays where it is, muted, so that its settings are not lost. Values that ComfyUI decides by
itself (where weights lie, when they move) are left out without a word; the tables call them "not needed".
"""


def page() -> str:
    table, names = rules("table"), rules("names")
    parts = [HEAD.format(count=len(table.TABLE)), "## What each node becomes\n"]
    rows = [(f"`{row.id}`", row.becomes or f"nothing: {row.lost}") for row in table.TABLE]
    parts.append(as_table(("theirs", "here"), rows))
    parts.append("## What each input becomes\n")
    for row in table.TABLE:
        if row.becomes:
            parts.append(f"### {row.id}\n")
            parts.append(as_table(("input", "goes to", "not carried over"), [inputs(one, table) for one in row.inputs]))
    parts.append("## Schedulers\n")
    parts.append(as_table(("theirs", "here"), [(name, rule_name(rule)) for name, rule in names.SCHEDULERS.items()]))
    parts.append("## Models\n")
    rows = [(name, ", ".join(f"`{one}`" for one in model.names)) for name, model in names.MODELS.items()]
    parts.append(as_table(("theirs", "folder or file that is looked for, the first one first"), rows))
    parts.append(CANVAS)
    return "\n".join(parts)


def inputs(one: Any, table: Any) -> tuple[str, str, str]:
    lost = one.lost
    if lost and isinstance(one, table.Widget):
        kept = ", ".join(f"`{value}`" for value in dict.fromkeys((one.default, *one.kept)))
        lost = f"other than {kept}: {lost}"
    return f"`{one.name}`", one.to, lost


def rule_name(rule: Any) -> str:
    return f"CogVideoX Sampler, {rule.official}" if rule.official else f"SamplerCustom, {rule.comfyui}"


def as_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(lines(head, rows)) + "\n"


def lines(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE)
