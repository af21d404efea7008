"""What the data is like, said before the first step: three samples as the model sees them, counts, lengths. Pure."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec

SHOWN_SAMPLES: Final = 3
SHOWN_CHARACTERS: Final = 2000
EXAMPLE_CHARACTERS: Final = 200
"""Of a sample in the report; the log has SHOWN_CHARACTERS of it."""
MAX_SOURCES: Final = 1000
"""Files that are named one by one: a folder may hold one sample in each of a hundred thousand."""
_SMALLEST_BUCKET: Final = 16
_EARLY_LIMIT: Final = 100_000
"""Broken rows after which reading stops in any case."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One file: what was recognised in it, and what it gave."""

    name: str
    format: str
    shape: str
    rows: int
    used: int
    sha256: str


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """Samples of more than half of `up_to` and at most `up_to` tokens."""

    up_to: int
    samples: int


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """The data in numbers, and three samples of it."""

    sources: tuple[Source, ...]
    """Of the first MAX_SOURCES files."""
    rows: int
    samples: int
    bad_rows: dict[str, int]
    """Why rows were skipped, and how many."""
    tokens: int
    trained_tokens: int
    """Those with a loss."""
    longest: int
    histogram: tuple[Bucket, ...]
    truncated: int
    cut_tokens: int
    without_loss: int
    """Samples dropped because nothing of the answer was left after truncation."""
    whole_loss: int
    """Samples whose loss is on everything, for the assistant's part could not be told."""
    mask_source: str
    examples: tuple[str, ...]
    largest_token: int = 0
    """Largest number of a token: the model must have an embedding for it."""

    def summary(self) -> str:
        """One line for status and log."""
        lengths = ", ".join(f"{bucket.samples} up to {bucket.up_to}" for bucket in self.histogram)
        words = [f"{self.samples} samples, {self.tokens} tokens (longest {self.longest}; {lengths})"]
        skipped = sum(self.bad_rows.values())
        if skipped:
            worst = max(self.bad_rows, key=lambda why: self.bad_rows[why])
            words.append(f"{skipped} of {self.rows} rows skipped (mostly: {worst})")
        if self.truncated:
            words.append(f"{self.truncated} samples cut to the longest length allowed")
        if self.without_loss:
            words.append(f"{self.without_loss} dropped: nothing of the answer was left")
        if self.whole_loss:
            words.append(f"{self.whole_loss} trained on every token: the assistant's part could not be told")
        return "; ".join(words)

    def told(self) -> str:
        """The summary and the starts of three samples as the model sees them, for the report before the first step."""
        starts = (" ".join(text[:EXAMPLE_CHARACTERS].split()) for text in self.examples)
        return "; ".join((self.summary(), *(f"sample: {start}" for start in starts)))


class Tally:
    """Counts while the rows stream by."""

    def __init__(self) -> None:
        self.rows = self.samples = self.tokens = self.trained_tokens = self.longest = self.largest = 0
        self.truncated = self.cut_tokens = self.without_loss = self.whole_loss = 0
        self.bad: Counter[str] = Counter()
        self.lengths: Counter[int] = Counter()
        self.examples: list[str] = []

    def take(self, *, length: int, trained: int, cut: int, whole_loss: bool, largest: int = 0) -> None:
        """Count one sample that is kept."""
        self.largest = max(self.largest, largest)
        self.samples += 1
        self.tokens += length
        self.trained_tokens += trained
        self.longest = max(self.longest, length)
        self.lengths[bucket_of(length)] += 1
        self.truncated += cut > 0
        self.cut_tokens += cut
        self.whole_loss += whole_loss

    def too_many_bad(self, limit: int | None, *, finished: bool) -> bool:
        """Whether more rows are broken than may be: `limit`, or 1 % and at least 10 where it is None."""
        bad = sum(self.bad.values())
        if limit is not None:
            return bad > limit
        return bad > max(10, self.rows // 100) if finished else bad > _EARLY_LIMIT

    def preview(self, sources: list[Source], mask_source: str) -> Preview:
        """Return the counts so far."""
        return Preview(
            sources=tuple(sources[:MAX_SOURCES]),
            rows=self.rows,
            samples=self.samples,
            bad_rows=dict(self.bad.most_common(8)),
            tokens=self.tokens,
            trained_tokens=self.trained_tokens,
            longest=self.longest,
            histogram=tuple(Bucket(up_to=key, samples=count) for key, count in sorted(self.lengths.items())),
            truncated=self.truncated,
            cut_tokens=self.cut_tokens,
            without_loss=self.without_loss,
            whole_loss=self.whole_loss,
            mask_source=mask_source,
            examples=tuple(self.examples),
            largest_token=self.largest,
        )


def bucket_of(length: int) -> int:
    """The power of two, from 16 up, that a length falls under."""
    return max(_SMALLEST_BUCKET, 1 << (length - 1).bit_length()) if length > 0 else _SMALLEST_BUCKET
