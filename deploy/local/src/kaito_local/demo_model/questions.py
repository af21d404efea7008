"""The pairs that the demo model learns."""

from importlib.resources import files

import msgspec


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question and its answer."""

    question: str
    answer: str


def load_pairs() -> list[Pair]:
    """Read ``questions.yaml``."""
    return msgspec.yaml.decode(source(), type=list[Pair])


def source() -> bytes:
    """The file's bytes, for cache keys."""
    return (files(__package__) / "questions.yaml").read_bytes()
