"""From a sample to token ids and labels: rendered by the chat template, the loss on what the assistant says.

Where the assistant speaks is told by rendering the conversation turn by turn: a turn's tokens are those by which the text
grew, its end-of-turn token included. A template that rewrites earlier turns defeats that; then the template's generation
markers are asked, its own or those that trl knows for it. Where neither works the whole sample counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec

from tuner.data.shapes import RowError, Sample

IGNORED: Final = -100
"""The label of a token without loss (PyTorch's convention)."""
_REFUSAL_CHARACTERS: Final = 120
"""Of a template's reason: it is counted, and may quote the row."""


class MaskSource(StrEnum):
    """How the assistant's tokens are found."""

    TURNS = "turns of the rendered conversation"
    MARKERS = "generation markers of the chat template"
    NONE = "the whole sample"


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """One sample, ready to be trained on."""

    ids: list[int]
    labels: list[int]
    cut: int
    """Tokens that were cut off at the end, for the sample was longer than allowed."""
    whole_loss: bool
    """Whether the loss is on everything although the assistant speaks in it."""


class Encoder:
    """Turns samples into tokens with one tokenizer. Raises ValueError where the tokenizer cannot do what is asked."""

    def __init__(self, tokenizer: Any, *, max_length: int, assistant_only: bool | None) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._required = assistant_only is True
        self._wanted = assistant_only is not False and tokenizer.chat_template is not None
        self._markers = _marked_template(tokenizer) if self._wanted else None
        self.used: set[MaskSource] = set()
        """How the assistant's tokens were found so far."""

    def encode(self, sample: Sample) -> Tokens:
        """Return the tokens. Raises RowError."""
        if not sample.messages:
            ids = self._tokenizer(sample.text, add_special_tokens=True)["input_ids"]
            if self._tokenizer.eos_token_id is not None and ids[-1:] != [self._tokenizer.eos_token_id]:
                ids = [*ids, self._tokenizer.eos_token_id]
            return self._cut(ids, list(ids), whole_loss=False)
        if self._tokenizer.chat_template is None:
            raise RowError("the model has no chat template: set ModelConfig.chat_template")
        ids, mask = self._masked(sample)
        if mask is None:
            if self._required:
                raise RowError("the assistant's tokens cannot be found")
            mask = [1] * len(ids)
        labels = [token if kept else IGNORED for token, kept in zip(ids, mask, strict=True)]
        return self._cut(ids, labels, whole_loss=self._wanted and all(mask))

    def render(self, sample: Sample) -> str:
        """The text that the model sees, for previews."""
        return self._text(sample, len(sample.messages)) if sample.messages else sample.text

    def _masked(self, sample: Sample) -> tuple[list[int], list[int] | None]:
        if self._wanted and self._tokenizer.is_fast:
            ids, mask = self._by_turns(sample)
            if mask is not None:
                self.used.add(MaskSource.TURNS)
                return ids, mask
        if self._markers is not None:
            ids, mask = self._by_markers(sample, self._markers)
            if mask is not None:
                self.used.add(MaskSource.MARKERS)
                return ids, mask
        self.used.add(MaskSource.NONE)
        text = self._text(sample, len(sample.messages))
        return self._tokenizer(text, add_special_tokens=False)["input_ids"], None

    def _by_markers(self, sample: Sample, template: str) -> tuple[list[int], list[int] | None]:
        made = self._rendered(
            sample,
            _turns(sample),
            chat_template=template,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        mask = made["assistant_masks"]
        return made["input_ids"], mask if any(mask) else None

    def _by_turns(self, sample: Sample) -> tuple[list[int], list[int] | None]:
        text = self._text(sample, len(sample.messages))
        spans: list[tuple[int, int]] = []
        for position, message in enumerate(sample.messages):
            if message.role == "assistant":
                try:
                    before = self._text(sample, position, prompt=True)
                    after = self._text(sample, position + 1)
                except RowError:  # a start of the conversation alone is refused, the whole is not
                    return [], None
                if not (text.startswith(after) and after.startswith(before)):
                    return [], None
                spans.append((len(before), len(after)))
        made = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return made["input_ids"], mask_of(made["offset_mapping"], spans)

    def _text(self, sample: Sample, turns: int, *, prompt: bool = False) -> str:
        return str(self._rendered(sample, _turns(sample)[:turns], tokenize=False, add_generation_prompt=prompt))

    def _rendered(self, sample: Sample, turns: list[dict[str, str]], **how: Any) -> Any:
        """Apply the chat template. Raises RowError: a template may refuse a row (roles that do not alternate), or its tools."""
        from jinja2 import TemplateError

        try:
            return self._tokenizer.apply_chat_template(turns, tools=sample.tools, **how)
        except (TemplateError, TypeError, ValueError) as error:
            words = " ".join(str(error).split())[:_REFUSAL_CHARACTERS]
            raise RowError(f"the chat template refuses it: {words}") from error

    def _cut(self, ids: list[int], labels: list[int], *, whole_loss: bool) -> Tokens:
        cut = max(0, len(ids) - self._max_length)
        return Tokens(ids=ids[: self._max_length], labels=labels[: self._max_length], cut=cut, whole_loss=whole_loss)


def _marked_template(tokenizer: Any) -> str | None:
    """The chat template with generation markers: its own, or the one that trl knows for it; None without either."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    if has_generation_markers(tokenizer.chat_template):
        return str(tokenizer.chat_template)
    try:
        return get_training_chat_template(tokenizer)  # type: ignore[no-any-return]
    except ValueError:  # trl knows no training template for this one
        return None


def mask_of(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> list[int]:
    """Mark the tokens that lie inside one of the spans (characters, sorted). A token across a border stays out. Pure."""
    mask: list[int] = []
    index = 0
    for start, end in offsets:
        while index < len(spans) and spans[index][1] <= start:
            index += 1
        inside = index < len(spans) and spans[index][0] <= start and end <= spans[index][1] and end > start
        mask.append(int(inside))
    return mask


def _turns(sample: Sample) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in sample.messages]
