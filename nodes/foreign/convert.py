"""A graph with the wrapper's nodes, rewritten to ours. What `table` says of single nodes is done in their context: an
encoded image becomes one node before a sampler's image latents and another before its samples, and so on.
"""

from __future__ import annotations

from collections.abc import Callable

from .context import Context, Find, Loss
from .graph import BYPASSED, MUTED, Graph, Link, Node
from .images import (
    IMAGES,
    rewrite_combined_texts,
    rewrite_decode,
    rewrite_image,
    rewrite_resize,
    rewrite_text,
)
from .models import LOADERS, LORAS, rewrite_model, rewrite_vae
from .sampling import rewrite_sampler
from .table import FOREIGN, ForeignNode, Socket

Rewrite = Callable[[Context, str, Node], None]


def convert(graph: Graph, find: Find) -> list[Loss]:
    """Rewrite the wrapper's nodes in a graph to ours; the graph is changed.

    Nodes without a counterpart stay in it as they are, for the caller to refuse, mute or remove.

    Args: find: the name by which a loader ("transformer", "vae", "lora") offers the first of some names, or None.
    Returns: what is not carried over.
    """
    context = Context(graph, find)
    for name, node in graph.nodes.items():
        if row := FOREIGN.get(node.type):
            node.inputs = {**dict(row.defaults()), **node.inputs}
            _name_losses(context, name, row)
    for rewrite, kinds in _STEPS:
        for name in graph.of_type(*kinds):
            rewrite(context, name, graph.nodes[name])
    graph.drop_loose_links()
    return context.losses


def _remove(context: Context, name: str, node: Node) -> None:
    """Take away a node of settings: its values are in ours by now."""
    del context.graph.nodes[name]


# Samplers come before what they look at: loaders, encoded images and settings, which are theirs still.
_STEPS: tuple[tuple[Rewrite, tuple[str, ...]], ...] = (
    (rewrite_text, ("CogVideoTextEncode",)),
    (rewrite_combined_texts, ("CogVideoTextEncodeCombine",)),
    (rewrite_sampler, ("CogVideoSampler",)),
    (rewrite_model, LOADERS),
    (rewrite_vae, ("CogVideoXVAELoader",)),
    (rewrite_decode, ("CogVideoDecode",)),
    (rewrite_resize, ("CogVideoXFunResizeToClosestBucket",)),
    (rewrite_image, IMAGES),
    (_remove, (*LORAS, "CogVideoXTorchCompileSettings", "CogVideoXTeaCache", "CogVideoContextOptions")),
)


def _name_losses(context: Context, name: str, row: ForeignNode) -> None:
    """Name a node, or the inputs of it, that have no counterpart; a muted node did nothing before, either."""
    node = context.graph.nodes[name]
    if node.mode in (MUTED, BYPASSED):
        return
    if row.lost:
        context.lose(name, row.lost)
        return
    for one in row.inputs:
        value = node.inputs.get(one.name)
        if isinstance(one, Socket):
            if one.lost and isinstance(value, Link) and context.graph.source(value) and not _is_named(context, value):
                context.lose(name, f"{one.name}: {one.lost}")
        elif not isinstance(value, Link) and one.is_lost(value):
            context.lose(name, f"{one.name}={value}: {one.lost}")


def _is_named(context: Context, link: Link) -> bool:
    """Whether the node that a link comes from has no counterpart, so that a sentence of its own names it."""
    source = context.graph.source(link)
    row = FOREIGN.get(context.graph.nodes[source.node].type) if source else None
    return row is not None and bool(row.lost)
