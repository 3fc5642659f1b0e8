"""Write docs/foreign-workflows.md from the table in nodes/foreign/: python tools/make_foreign_page.py"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from tests import provision
from tests.support.foreign_graphs import rules

PAGE = provision.REPO / "docs" / "foreign-workflows.md"

HEAD = """\
# Workflows of the CogVideoX wrapper

Workflows made with kijai's ComfyUI-CogVideoXWrapper open and run here. One table converts its {count} nodes to ours or
ComfyUI's: [nodes/foreign/table.py](../nodes/foreign/table.py). This page is printed from it (`python
tools/make_foreign_page.py`), and a test compares the two.

- **On the canvas** a workflow is converted as it opens, subgraphs included. A message lists what is not carried over.
  The file stays unchanged until you save.
- **Prompts** that are queued through the API with the wrapper's node ids are converted before ComfyUI checks them. The
  server's log lists what is not carried over. If a node without a counterpart matters for the video (a ControlNet, for
  example), the prompt is refused with the reason instead. (A prompt file that is dropped on the canvas is opened by
  ComfyUI alone, which leaves out unknown nodes: queue it, or open the workflow.)
- **Replace Node** in ComfyUI's list of errors is for what was not converted, for example if the extension
  *cogvideox.foreign* is switched off: it replaces single nodes, without their context. You then have to choose model
  names and schedulers, and to add nodes: an empty latent, a loader for the VAE, a link from the clip to each prompt.

If the wrapper, or another pack with one of its node ids, is installed, nothing is converted, and its own nodes run.

A model is chosen automatically if the official download, or the wrapper's own, is in one of ComfyUI's model folders. If
it is not there, the message names it, and the loader shows its name: put the file there, or choose another. Nodes of
other packs in the workflow (of VideoHelperSuite, for example) stay as they are.

A video need not be the same bit for bit: noise is drawn in the official order here, samplers other than DDIM and
DPM++ 2M SDE are ComfyUI's, and texts are encoded at 226 tokens.
"""

CANVAS = """\
## What is left on the canvas

A node without a counterpart stays on the canvas, muted, so that its settings are not lost. Values that ComfyUI
decides by itself (where weights are kept, when they move) are left out without a message; the tables call them "not
needed"."""


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


def main() -> None:
    argparse.ArgumentParser(description="Write docs/foreign-workflows.md.").parse_args()
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
