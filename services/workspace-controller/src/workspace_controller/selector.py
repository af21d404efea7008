"""A Workspace's labelSelector as plain labels: they select nodes, and new nodes are given them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from kaito_api import labels
from kaito_api.core import Node
from kaito_api.workspace import LabelSelector, Workspace

_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_PREFIX: Final = re.compile(r"(?=.{1,253}/)[a-z0-9]([a-z0-9.-]*[a-z0-9])?/")
_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


class SelectorError(ValueError):
    """The selector does not convert to plain labels. The message says which expression and what to write instead."""


def plain_labels(selector: LabelSelector) -> dict[str, str]:
    """Return `selector` as labels, reserved keys included, sorted by key. Raises SelectorError."""
    plain = dict(selector.match_labels)
    for expression in selector.match_expressions:
        if expression.operator != "In" or len(expression.values) != 1:
            raise SelectorError(
                f"expression {expression.key!r} {expression.operator} {sorted(expression.values)} does not name exactly "
                "one value, and nodes must be given labels by it: use matchLabels, or operator In with one value"
            )
        value = expression.values[0]
        if plain.setdefault(expression.key, value) != value:
            raise SelectorError(f"key {expression.key!r} is asked to be both {plain[expression.key]!r} and {value!r}")
    for key, value in plain.items():
        name = _PREFIX.sub("", key, count=1)
        if not _NAME.fullmatch(name):
            raise SelectorError(f"{key!r} is not a legal label key: [prefix/]name, the name at most 63 characters")
        if not _VALUE.fullmatch(value):
            raise SelectorError(f"{value!r}, wanted for {key!r}, is not a legal label value: at most 63 characters")
    return dict(sorted(plain.items()))


def node_labels(workspace: Workspace) -> dict[str, str]:
    """Return the labels that the Workspace's nodes carry, without the reserved keys. Raises SelectorError."""
    if workspace.resource is None:
        return {}
    plain = plain_labels(workspace.resource.label_selector)
    return {key: value for key, value in plain.items() if key not in labels.RESERVED_SELECTOR_KEYS}


def ownership_labels(workspace: Workspace) -> dict[str, str]:
    """Return the two labels that say whose a claim or node is."""
    return {
        labels.WORKSPACE: workspace.metadata.name,
        labels.WORKSPACE_NAMESPACE: workspace.metadata.namespace,
    }


def select(nodes: Sequence[Node], wanted: dict[str, str]) -> tuple[Node, ...]:
    """Return the nodes that carry all of `wanted` and are not being deleted, sorted by name."""
    matching = [node for node in nodes if not node.metadata.deleting and wanted.items() <= node.metadata.labels.items()]
    return tuple(sorted(matching, key=lambda node: node.metadata.name))


def brought_nodes(workspace: Workspace, nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Return the nodes that the user brings: they match, and no other Workspace owns them."""
    key = (workspace.metadata.name, workspace.metadata.namespace)
    free = [
        node
        for node in nodes
        if labels.WORKSPACE not in node.metadata.labels
        or (node.metadata.labels[labels.WORKSPACE], node.metadata.labels.get(labels.WORKSPACE_NAMESPACE)) == key
    ]
    return select(free, node_labels(workspace))
