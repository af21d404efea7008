"""set_condition: transition times move only with the status, and nothing changes where nothing is new."""

from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito_api.conditions import Reason, WorkspaceCondition, find_condition, is_true, set_condition
from kaito_api.meta import Condition

THEN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
NOW = THEN + timedelta(minutes=5)
READY = Condition(type="Ready", status="False", reason="NodeNotReady", message="m", observed_generation=1)


def test_a_new_condition_is_appended_with_whole_seconds() -> None:
    (condition,) = set_condition([], READY, THEN)
    assert condition.last_transition_time == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_the_time_is_in_utc_whatever_the_clock_says() -> None:
    there = THEN.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert msgspec.json.encode(set_condition([], READY, there)[0]).endswith(b'"2026-01-02T03:04:05Z"}')


def test_a_clock_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        set_condition([], READY, datetime(2026, 1, 1))  # noqa: DTZ001


def test_nothing_new_gives_back_the_very_same_list() -> None:
    stored = set_condition([], READY, THEN)
    assert set_condition(stored, READY, NOW) is stored


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        ({"status": "True"}, True),
        ({"status": "Unknown"}, True),
        ({"reason": "Other"}, False),
        ({"message": "other"}, False),
        ({"observed_generation": 2}, False),
    ],
)
def test_only_a_new_status_moves_the_time(change: dict[str, object], moves: bool) -> None:
    other = Condition(type="Other", status="True", reason="R")
    stored = set_condition(set_condition([], READY, THEN), other, THEN)
    changed = set_condition(stored, msgspec.structs.replace(READY, **change), NOW)
    assert [condition.type for condition in changed] == ["Ready", "Other"]
    assert changed[1] == stored[1]
    assert changed[0].last_transition_time == (NOW if moves else THEN).replace(microsecond=0)
    for name, value in change.items():
        assert getattr(changed[0], name) == value


def test_a_stored_condition_without_a_time_gets_one() -> None:
    (condition,) = set_condition([READY], READY, THEN)
    assert condition.last_transition_time is not None


def test_truth_needs_a_true_condition() -> None:
    assert not is_true([], "Ready")
    assert not is_true([msgspec.structs.replace(READY, status="Unknown")], "Ready")
    assert is_true([msgspec.structs.replace(READY, status="True")], "Ready")
    assert find_condition([READY], "Other") is None


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from(["True", "False", "Unknown"]), st.text(max_size=3))))
def test_any_sequence_keeps_one_entry_a_type_and_the_order_of_arrival(steps: list[tuple[str, str, str]]) -> None:
    conditions: list[Condition] = []
    for number, (type_, status, message) in enumerate(steps):
        new = Condition(type=type_, status=status, reason="R", message=message)
        conditions = set_condition(conditions, new, THEN + timedelta(seconds=number))
    assert [condition.type for condition in conditions] == list(dict.fromkeys(type_ for type_, _, _ in steps))
    last = {type_: (status, message) for type_, status, message in steps}
    assert {condition.type: (condition.status, condition.message) for condition in conditions} == last


def test_reasons_are_what_the_crd_takes() -> None:
    for name in (*Reason, *WorkspaceCondition):
        assert name.isidentifier()
        assert name[0].isalpha()
