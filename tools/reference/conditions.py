"""Condition types and reasons, from the enumerations that the code uses and the entries of docs/troubleshooting.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from gpu_provisioner.cloud.failure import FailureClass
from kaito_api import conditions
from kaito_api.conditions import ClaimCondition, ClaimReason, MachineConditionType, Reason, WorkspaceCondition
from reference.table import code, table

_ALERTS = "\n## Alerts\n"
"""What follows in docs/troubleshooting.md is about alerts, some of them named as reasons are."""


def page(troubleshooting: str) -> str:
    """Return the page; `troubleshooting` is the text of docs/troubleshooting.md."""
    entries = first_sentences(troubleshooting)
    known = {reason.value for reason in ClaimReason}
    of_claims = [*_members(ClaimReason), *((each.value, "") for each in FailureClass if each.value not in known)]
    return "\n".join(
        [
            "# Conditions and reasons\n",
            "A reason is one stable word; its link leads to what to do. No service here writes those without a link.\n",
            "## Conditions of a Workspace\n",
            table(("Condition", "Meaning"), _types(WorkspaceCondition)),
            "## Reasons in the conditions of a Workspace\n",
            "The reasons of a claim, below, are passed on in `NodeClaimReady` and `ResourceReady`.\n",
            table(("Reason", "In", "Meaning"), _reasons(_members(Reason), entries)),
            "## Conditions of a claim\n",
            "`karpenter.sh/v1` NodeClaim: " + ", ".join(code(each.value) for each in ClaimCondition) + ".\n",
            "`karpenter.sh/v1alpha5` Machine: " + ", ".join(code(each.value) for each in MachineConditionType) + ".\n",
            "## Reasons in the conditions of a claim\n",
            "As the gpu-provisioner writes them. A True condition has its own type as reason.\n",
            table(("Reason", "Meaning"), ((reason, text) for reason, _, text in _reasons(of_claims, entries))),
        ]
    )


def first_sentences(text: str) -> dict[str, str]:
    """Return the first sentence of each entry by its reason."""
    found = {}
    for heading, body in re.findall(
        r"^### (\w+)\n+(.+?)(?=\n#|\n\n|\Z)", text.partition(_ALERTS)[0], re.MULTILINE | re.DOTALL
    ):
        sentence, *_ = re.split(r"(?<=[.;])\s", " ".join(body.split()), maxsplit=1)
        found[heading] = (
            re.sub(r"\[([^\]]*)\]\(#([^)]*)\)", r"[\1](../troubleshooting.md#\2)", sentence.rstrip(".;")) + "."
        )
    return found


def _reasons(members: list[tuple[str, str]], entries: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    for value, group in members:
        shown = f"[{code(value)}](../troubleshooting.md#{value.lower()})" if value in entries else code(value)
        yield shown, group, entries.get(value, "")


def _types(enum: type[StrEnum]) -> Iterator[tuple[str, str]]:
    tree = _class(enum)
    for statement, following in zip(tree.body, [*tree.body[1:], ast.Pass()], strict=True):
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            yield code(enum[statement.targets[0].id].value), _docstring(following)


def _members(enum: type[StrEnum]) -> list[tuple[str, str]]:
    """Return the values of an enumeration in its order, each with the comment that heads its group."""
    source = Path(conditions.__file__).read_text().splitlines()
    found, group = [], ""
    tree = _class(enum)
    assigned = {each.lineno: each for each in tree.body if isinstance(each, ast.Assign)}
    for number in range(tree.lineno, (tree.end_lineno or tree.lineno) + 1):
        line = source[number - 1].strip()
        if line.startswith("# "):
            group = line.removeprefix("# ").partition(":")[0]
        elif number in assigned and isinstance(assigned[number].targets[0], ast.Name):
            target = assigned[number].targets[0]
            assert isinstance(target, ast.Name)
            found.append((enum[target.id].value, group))
    return found


def _class(enum: type[StrEnum]) -> ast.ClassDef:
    tree = ast.parse(Path(conditions.__file__).read_text())
    return next(each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == enum.__name__)


def _docstring(statement: ast.stmt) -> str:
    """Return the text of a string that stands alone, on one line."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""
