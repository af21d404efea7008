"""inference_config.yaml: never an exception, and the context length in all of vLLM's spellings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workspace_controller.engine_arguments import ALLOWED, RESERVED
from workspace_controller.inference_config import ConfigProblem, ConfigSource, InferenceConfig, parse_config


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        ("8192", 8192),
        ("8k", 8000),
        ("8K", 8192),
        ("1.5k", 1500),
        ("1M", 1048576),
        ("auto", None),
        ("-1", None),
        ("'4096'", 4096),
    ],
)
def test_context_lengths(written: str, tokens: int | None) -> None:
    parsed = parse_config(f"vllm: {{max-model-len: {written}}}")
    assert isinstance(parsed, InferenceConfig)
    assert parsed.max_model_len == tokens


@given(st.text(max_size=200))
def test_no_text_raises(text: str) -> None:
    parse_config(text)
    parse_config(f"vllm:\n  seed: {text}")


def test_nothing_is_both_allowed_and_reserved() -> None:
    assert ALLOWED.isdisjoint(RESERVED)


def test_the_digest_follows_the_file_alone() -> None:
    one = ConfigSource(found=True, data={"inference_config.yaml": "vllm: {}", "other": "a"})
    same = ConfigSource(found=True, data={"inference_config.yaml": "vllm: {}", "other": "b"})
    changed = ConfigSource(found=True, data={"inference_config.yaml": "vllm: {seed: 1}"})
    assert one.digest == same.digest != changed.digest
    assert ConfigSource(found=False).digest == ""


def test_what_the_reader_refuses_is_a_problem_of_the_whole_file() -> None:
    (problem,) = refused("a: &a [x]\nvllm: {max-model-len: *a}")
    assert problem.path == ""
    assert "the alias *a must stand for a single value" in problem.message


@pytest.mark.parametrize(
    "length", ["9" * 30, "9" * 400, "'" + "9" * 400 + "'", "1.0e+300", ".inf", "[1]", "{a: 1}", "true", "0"]
)
def test_a_context_that_is_no_length_is_a_problem(length: str) -> None:
    (problem,) = refused(f"vllm: {{max-model-len: {length}}}")
    assert len(problem.message) < 200


def refused(text: str) -> tuple[ConfigProblem, ...]:
    found = parse_config(text)
    assert not isinstance(found, InferenceConfig)
    return found
