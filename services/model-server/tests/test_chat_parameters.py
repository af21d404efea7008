"""chat_parameters.plan: KAITO's body onto vLLM's requests."""

from __future__ import annotations

from typing import Any

import pytest

from model_server.chat_parameters import DEFAULT_MAX_TOKENS, ChatError, plan


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {"max_tokens": DEFAULT_MAX_TOKENS}),
        ({"generate_kwargs": {"max_length": 50}}, {"max_tokens": 50}),
        ({"generate_kwargs": {"max_length": 50}, "max_tokens": 7}, {"max_tokens": 7}),
        ({"generate_kwargs": {"do_sample": False, "temperature": 0.7}}, {"temperature": 0.0}),
        ({"generate_kwargs": {"do_sample": True, "temperature": 0.7}}, {"temperature": 0.7}),
        ({"generate_kwargs": {"top_k": 10, "top_p": 1, "typical_p": 1}}, {"top_k": 10, "top_p": 1}),
        ({"generate_kwargs": {"num_beams": 1, "early_stopping": False}}, {"use_beam_search": None}),
        ({"generate_kwargs": {"num_beams": 4}}, {"use_beam_search": True, "n": 4}),
        (
            {"generate_kwargs": {"repetition_penalty": 1.2, "min_length": 3}},
            {"repetition_penalty": 1.2, "min_tokens": 3},
        ),
        ({"generate_kwargs": {"eos_token_id": 7, "pad_token_id": 0}}, {"stop_token_ids": [7]}),
        ({"generate_kwargs": {"top_k": None}}, {"top_k": None}),
        ({"handle_long_generation": "hole"}, {"truncate_prompt_tokens": -1}),
        ({"adapter": "legal"}, {"model": "legal"}),
        ({"model": "legal"}, {"model": "legal"}),
        ({"model": "legal", "adapter": "legal"}, {"model": "legal"}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    ],
)
def test_fields(body: dict[str, Any], expected: dict[str, Any]) -> None:
    fields = plan({"prompt": "hi"} | body, has_template=True).fields
    assert {key: fields.get(key) for key in expected} == expected
    assert fields["messages"] == [{"role": "user", "content": "hi"}]


def test_the_whole_of_kaitos_old_body() -> None:
    body = {
        "prompt": "What is Kubernetes?",
        "return_full_text": False,
        "clean_up_tokenization_spaces": False,
        "prefix": "Q: ",
        "handle_long_generation": None,
        "generate_kwargs": {
            "max_length": 200,
            "min_length": 0,
            "do_sample": True,
            "early_stopping": False,
            "num_beams": 1,
            "temperature": 1.0,
            "top_k": 10,
            "top_p": 1,
            "typical_p": 1,
            "repetition_penalty": 1,
            "pad_token_id": 0,
            "eos_token_id": 1,
        },
    }
    chat = plan(body, has_template=True)
    assert chat.chat
    assert chat.lead == ""
    assert chat.fields["messages"][0]["content"] == "Q: What is Kubernetes?"


def test_without_a_template_the_prompt_is_continued() -> None:
    chat = plan({"prompt": "Once", "return_full_text": True}, has_template=False)
    assert (chat.chat, chat.fields["prompt"], chat.lead) == (False, "Once", "Once")


def test_messages() -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert plan({"messages": messages}, has_template=True).fields["messages"] == messages


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "JSON object"),
        ({}, "exactly one of prompt and messages"),
        ({"prompt": "a", "messages": []}, "exactly one"),
        ({"prompt": ""}, "not empty"),
        ({"prompt": 5}, "must be text"),
        ({"messages": [{"role": "user"}]}, "role and content"),
        ({"messages": ["hi"]}, "role and content"),
        ({"prompt": "a", "promt": "b"}, "unknown fields: promt"),
        ({"prompt": "a", "generate_kwargs": {"beams": 3}}, "generate_kwargs: beams"),
        ({"prompt": "a", "generate_kwargs": []}, None),
        ({"prompt": "a", "generate_kwargs": [1]}, "must be an object"),
        ({"prompt": "a", "temperature": "hot"}, "must be a number"),
        ({"prompt": "a", "temperature": True}, "must be a number"),
        ({"prompt": "a", "top_p": 1.5}, "between 0 and 1"),
        ({"prompt": "a", "max_tokens": 1.5}, "whole number"),
        ({"prompt": "a", "max_tokens": 0}, "between 1 and 2147483648, got 0"),
        ({"prompt": "a", "temperature": 3}, "temperature must be between 0 and 2, got 3"),
        (
            {"prompt": "a", "generate_kwargs": {"min_length": 300}},
            "at least 300 tokens .min_length.* at most 200 .max_length",
        ),
        ({"prompt": "a", "min_tokens": 9, "max_length": 8}, "at least 9 tokens .* at most 8 "),
        ({"prompt": "a", "typical_p": 0.9}, "no typical sampling"),
        ({"prompt": "a", "num_return_sequences": 2}, "one answer"),
        ({"prompt": "a", "num_beams": 11}, "num_beams must be between 1 and 10"),
        ({"prompt": "a", "stream": "yes"}, "true or false"),
        ({"prompt": "a", "adapter": "x", "model": "y"}, "different things"),
        ({"prompt": "a", "handle_long_generation": "cut"}, "hole"),
        ({"prompt": "a", "eos_token_id": "x"}, "token number"),
        ({"messages": [{"role": "user", "content": "x"}], "return_full_text": True}, "needs a prompt"),
        ({"messages": [{"role": "user", "content": "x"}], "prefix": "x"}, "goes with prompt"),
    ],
)
def test_refusals(body: Any, words: str | None) -> None:
    if words is None:
        plan(body, has_template=True)  # an empty list is KAITO clients' way to say nothing
        return
    with pytest.raises(ChatError, match=words):
        plan(body, has_template=True)


def test_messages_need_a_template() -> None:
    with pytest.raises(ChatError, match="no chat template"):
        plan({"messages": [{"role": "user", "content": "x"}]}, has_template=False)
