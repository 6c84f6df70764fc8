"""The given sources as one tree of names. Pure but for the working folder, which relative paths begin at."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tandem_agent.engine.folders import join
from tandem_protocol.errors import Usage


@dataclass(slots=True)
class Node:
    """A name in the tree of sources. ``source``: everything from here on; ``follow``: even through a symlink
    that stands here (the source was given with a slash at its end)."""

    children: dict[bytes, Node] = field(default_factory=dict)
    source: bool = False
    follow: bool = False


def source_tree(sources: Sequence[bytes]) -> Node:
    """The tree of the given paths; relative ones begin at the working folder. Raises `Usage` for none."""
    root = Node()
    for given in sources:
        if not given or b"\0" in given:
            raise Usage("an empty source path")
        path = os.path.normpath(os.path.join(os.getcwdb(), given))
        node = root
        for name in path.split(b"/"):
            if name:
                node = node.children.setdefault(name, Node())
        node.source = True
        node.follow = node.follow or given.endswith((b"/", b"/."))
    if not sources:
        raise Usage("no source to back up", "name a folder, or set sources in the configuration")
    return root


def outermost(node: Node, path: bytes = b"/") -> Iterator[tuple[bytes, bool]]:
    """(path, follow) of the sources that are in no other one, in the order in which they are walked."""
    if node.source:
        yield path, node.follow
        return
    for name in sorted(node.children):
        yield from outermost(node.children[name], join(path, name))
