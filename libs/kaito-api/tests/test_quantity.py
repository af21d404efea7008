"""Kubernetes quantities: exact values, the apiserver's grammar, and nothing that could blow up."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito_api.quantity import compare, parse

GIB = 1024**3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        (7, 7),
        ("1", 1),
        ("+1", 1),
        ("-1", -1),
        ("1.", 1),
        (".5", Decimal("0.5")),
        ("500m", Decimal("0.5")),
        ("100u", Decimal("0.0001")),
        ("1n", Decimal("1e-9")),
        ("1k", 1000),
        ("1M", 10**6),
        ("1E", 10**18),
        ("1E3", 1000),
        ("1e3", 1000),
        ("1e-3", Decimal("0.001")),
        ("1.5Gi", GIB * 3 // 2),
        ("16Ki", 16384),
        ("1Ei", 2**60),
    ],
)
def test_values(text: str | int, value: Decimal | int) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1 Gi",
        "Gi",
        "1gi",
        "1K",
        "1e",
        "--1",
        "1.2.3",
        "0x10",
        "1e100",
        "NaN",
        "inf",
        "١",
        "1_000",
        "1\n",
        "9" * 65,
    ],
)
def test_what_is_no_quantity_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="not a Kubernetes quantity"):
        parse(text)


@pytest.mark.parametrize(
    ("left", "right", "order"),
    [("1Gi", "1024Mi", 0), ("1G", "1Gi", -1), ("2", "1999m", 1), (1, "1", 0), ("1e3", "1k", 0)],
)
def test_order(left: str | int, right: str | int, order: int) -> None:
    assert compare(left, right) == order
    assert compare(right, left) == -order


@given(st.text())
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    try:
        assert parse(text).is_finite()
    except ValueError:
        return


@given(st.integers(min_value=-(10**15), max_value=10**15), st.sampled_from(["", "k", "Mi", "m"]))
def test_a_suffix_scales_exactly(number: int, suffix: str) -> None:
    factor = {"": Decimal(1), "k": Decimal(1000), "Mi": Decimal(2**20), "m": Decimal("0.001")}[suffix]
    assert parse(f"{number}{suffix}") == number * factor
