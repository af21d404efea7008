"""docs/troubleshooting.md has an entry for every reason that a service can write into a condition."""

import ast
import re
from enum import StrEnum
from pathlib import Path

import pytest
import yaml

from gpu_provisioner.cloud.failure import FailureClass
from kaito_api.adapter import AdapterReason
from kaito_api.conditions import ClaimReason, Reason
from kaito_oci import OciError

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "troubleshooting.md"
ENUMS: dict[str, type[StrEnum]] = {enum.__name__: enum for enum in (Reason, ClaimReason, FailureClass)}
SOURCES = sorted(REPOSITORY.glob("services/*/src/**/*.py"))


def used() -> dict[str, str]:
    """Return every reason that the sources name, with the first file that does."""
    found: dict[str, str] = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ENUMS):
                continue
            member = ENUMS[node.value.id].__members__.get(node.attr)
            if member is not None:
                found.setdefault(member.value, str(path.relative_to(REPOSITORY)))
    return found


ALERTS = "\n## Alerts\n"


def entries() -> list[str]:
    """Return the reasons that have an entry: the heading of each is the reason itself."""
    return re.findall(r"^### (\w+)$", DOCUMENT.read_text().partition(ALERTS)[0], re.MULTILINE)


def test_every_alert_leads_to_an_entry_and_every_entry_of_an_alert_has_one() -> None:
    """An alert that tells a reason leads to the reason's entry."""
    groups = yaml.safe_load((REPOSITORY / "deploy" / "monitoring" / "rules.yaml").read_text())["groups"]
    alerts = {r["alert"]: r["annotations"]["runbook"] for group in groups for r in group["rules"] if "alert" in r}
    text = DOCUMENT.read_text()
    anchors = {heading.lower() for heading in re.findall(r"^### (\w+)$", text, re.MULTILINE)}
    assert sorted(set(alerts.values()) - anchors) == []
    listed = set(re.findall(r"^### (\w+)$", text.partition(ALERTS)[2], re.MULTILINE))
    assert sorted(listed - alerts.keys()) == []


def test_the_search_finds_reasons() -> None:
    reasons = used()
    assert reasons["ConfigMapNotFound"].endswith("validation/config.py")
    assert len(reasons) > 60


@pytest.mark.parametrize("reason", sorted(used()))
def test_a_reason_has_an_entry(reason: str) -> None:
    assert reason in entries(), f"{reason} ({used()[reason]}) is missing in docs/troubleshooting.md"


def test_every_entry_is_a_reason_of_the_code_and_stands_once() -> None:
    known = {member.value for enum in ENUMS.values() for member in enum}
    listed = entries()
    assert sorted(set(listed) - known) == []
    assert sorted(listed) == sorted(set(listed))


def test_every_reason_of_an_adapter_stands_in_the_table() -> None:
    wanted = {reason.value for reason in AdapterReason} | {error.reason for error in OciError.__subclasses__()}
    text = DOCUMENT.read_text()
    assert [reason for reason in sorted(wanted) if f"`{reason}`" not in text] == []
