"""Text that was written to stop its reader: refused with words, at the price of its length."""

from __future__ import annotations

import pytest

from kaito_api.config_text import TRAINING_CHARACTERS, read_config, shown

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "a bomb of aliases": (BOMB, "the alias *a must stand for a single value"),
    "the same as a value": (f"{BOMB}vllm: {{max-model-len: *i}}", "the alias *a must stand for a single value"),
    "a mapping merged in": ("a: &a {x: 1}\nvllm: {<<: *a}", "the alias *a must stand"),
    "an anchor given to a value, then to a list": ("a: &a 1\nb: &a [1]\nc: *a", "the alias *a must stand"),
    "a key of lists": ("? [[1, 2], [3]]\n: 1", "a key must be text"),
    "a hexadecimal number of 5,000 digits": (f"vllm: {{seed: 0x{'f' * 5000}}}", "a number of 5002 characters"),
    "a key that is such a number": (f"0x{'f' * 900}: 1", "a number of 902 characters"),
    "a decimal number of 5,000 digits": (f"vllm: {{seed: {'9' * 5000}}}", "a number of 5000 characters"),
    "lists in lists, written in a row": ("[" * 20_000, "nested more than 32 deep"),
    "lists in lists, written as a block": ("- " * 20_000, "nested more than 32 deep"),
    "a day that does not exist": ("a: 2026-02-31", "cannot be read: day is out of range"),
    "a key written twice": ("vllm: {seed: 1}\nvllm: {}", "the key 'vllm' is written twice at line 2, column 1"),
    "no YAML": ("a: [", "is not valid YAML"),
    "too long": ("x" * 400_000, "has 400000 characters; at most"),
}


@pytest.mark.parametrize(("text", "words"), HOSTILE.values(), ids=HOSTILE)
def test_it_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        read_config(text, most=TRAINING_CHARACTERS)
    assert words in str(refused.value)


def test_an_alias_may_stand_for_a_single_value() -> None:
    assert read_config("a: &n 8192\nb: *n", most=100) == {"a": 8192, "b": 8192}


def test_plain_data_only() -> None:
    with pytest.raises(ValueError, match="is not valid YAML"):
        read_config("a: !!python/object/apply:os.system ['true']", most=100)


def test_what_is_shown_is_short() -> None:
    assert shown("x" * 100) == f"'{'x' * 59}..."
    assert shown([1]) == "a list"
    assert shown(8) == "8"
