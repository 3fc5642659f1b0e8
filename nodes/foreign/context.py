"""What the rewriting of single nodes shares: the graph, the files that are here, and what has been lost so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .graph import BYPASSED, Graph, Link

Find = Callable[[str, Iterable[str]], "str | None"]


class Loss(NamedTuple):
    """Something of a node that is not carried over, in words that follow the node's name."""

    node: str
    sentence: str


@dataclass
class Context:
    """A graph that is being rewritten. `find` is as of `convert`."""

    graph: Graph
    find: Find
    losses: list[Loss] = field(default_factory=list)

    def lose(self, name: str, sentence: str) -> None:
        """Note what is not carried over of a node, once."""
        if (loss := Loss(name, sentence)) not in self.losses:
            self.losses.append(loss)

    def source_of(self, value: Any, *kinds: str) -> str | None:
        """The node, of one of these types, that an input's link begins at."""
        source = self.graph.source(value)
        return source.node if source and self.graph.nodes[source.node].type in kinds else None

    def settings_at(self, name: str, key: str, *kinds: str) -> str | None:
        """The node of settings that an input is linked to; what comes from outside a subgraph cannot be seen."""
        value = self.graph.nodes[name].inputs.get(key)
        found = self.source_of(value, *kinds)
        if found is None and self.graph.source(value):
            self.lose(name, f"{key}: what comes in from outside this graph is not known here")
        return found

    def add_for(self, settings: str, kind: str, inputs: dict[str, Any]) -> Link:
        """The output of a new node for a node of settings, bypassed if that one was."""
        name = self.graph.add(kind, settings, inputs)
        if self.graph.nodes[settings].mode:
            self.graph.nodes[name].mode = BYPASSED
        return Link(name, 0)

    def named(self, name: str, component: str, names: tuple[Any, ...]) -> Any:
        """What our loader calls a file of theirs; its usual name where it is not here, which is said."""
        if isinstance(names[0], Link):
            return names[0]
        found = self.find(component, names)
        if found is None:
            self.lose(name, f"{names[0]} is not among the files here; put it into its folder, or choose another")
            return names[0]
        return found
