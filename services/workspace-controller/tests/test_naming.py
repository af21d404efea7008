"""Names are legal for every Workspace name, and equal only for equal identities."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from workspace_controller.naming import (
    claim_name,
    headless_service_name,
    pod_names,
    service_account_name,
    statefulset_name,
)

names = st.from_regex(r"\A[a-z]([a-z0-9-]{0,61}[a-z0-9])?\Z")
DNS_LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
POOL = re.compile(r"[a-z][a-z0-9]{0,10}")


@given(names)
def test_all_names_are_legal(name: str) -> None:
    for made in (statefulset_name(name), headless_service_name(name), service_account_name(name), *pod_names(name, 12)):
        assert DNS_LABEL.fullmatch(made), made
    assert len(statefulset_name(name)) <= 52


@given(names, names)
def test_different_workspaces_never_share_a_name(one: str, other: str) -> None:
    if one != other:
        assert statefulset_name(one) != statefulset_name(other)
        assert headless_service_name(one) != headless_service_name(other)
        assert service_account_name(one) != service_account_name(other)


def test_short_names_stay_readable() -> None:
    assert statefulset_name("phi") == "phi"
    assert headless_service_name("phi") == "phi-headless"
    assert pod_names("phi", 2) == ("phi-0", "phi-1")


def test_long_names_keep_their_beginning() -> None:
    assert statefulset_name("n" * 63) == "n" * 41 + "-vx3mhqyk64"
    assert headless_service_name("n" * 60).endswith("-headless")


@given(st.uuids(), st.integers(0, 99), st.integers(0, 99))
def test_claim_names_are_legal_pool_names(uid: object, slot: int, attempt: int) -> None:
    assert POOL.fullmatch(claim_name(str(uid), slot, attempt))


def test_claim_names_follow_uid_slot_and_attempt() -> None:
    made = {claim_name(uid, slot, attempt) for uid in ("a", "b") for slot in range(5) for attempt in range(5)}
    assert len(made) == 50
    assert claim_name("a", 1, 2) == claim_name("a", 1, 2)
    assert claim_name("a", 1, 12) != claim_name("a", 11, 2)
