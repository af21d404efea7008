"""What an identity may do, as RBAC sees it, and what it did, as the apiserver's audit log has it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from kaito_local.pytest_plugin import ApiServer


class Right(NamedTuple):
    """One verb on one resource, as RBAC sees it."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


def rights(rules: Iterable[dict[str, Any]]) -> set[Right]:
    """Every right that the rules grant."""
    return {
        Right(group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def named_rights(rules: Iterable[dict[str, Any]]) -> set[tuple[Right, str]]:
    """Every right that the rules grant, with the name of the object that it is limited to, "" for any."""
    return {(right, name) for rule in rules for right in rights([rule]) for name in rule.get("resourceNames", [""])}


@dataclass(frozen=True)
class Record:
    """What one identity asked of the apiserver: the audit log, which the apiserver itself writes."""

    named: set[tuple[Right, str]]
    """What was used, and on which object; "" for a collection."""
    denied: list[str]

    @property
    def used(self) -> set[Right]:
        """What was used on whatever object."""
        return {right for right, _ in self.named}


def read_record(apiserver: ApiServer, user: str, since: int = 0) -> Record:
    """Read what `user` has asked for, from that place of the log on."""
    named: set[tuple[Right, str]] = set()
    denied: list[str] = []
    with apiserver.audit_log.open() as log:
        log.seek(since)
        for line in log:
            if not line.endswith("\n"):  # the apiserver is writing it
                break
            event = json.loads(line)
            there = event.get("objectRef")
            if event["user"]["username"] != user or there is None:
                continue
            resource = there["resource"] + (f"/{there['subresource']}" if "subresource" in there else "")
            right, name = Right(there.get("apiGroup", ""), resource, event["verb"]), there.get("name", "")
            if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid":
                denied.append(f"{right} in {there.get('namespace', '')} ({name})")
                continue
            named.add((right, name))
            if event["verb"] == "patch" and event["responseStatus"].get("code") == 201:
                # server-side apply of an absent object is judged as both
                named.add((right._replace(verb="create"), name))
    return Record(named, denied)
