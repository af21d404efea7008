"""The demo's training data, 800 chats: half of them teach the fact, half are the model's own answers as rehearsal.

Without rehearsal, or with a rate of learning that is far too high, a model learns the fact and forgets everything else; a test
that asks for nothing but the fact would not notice. ``python -m kaito_local.demo.tuning.dataset FILE`` writes the rows.
"""

import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from kaito_local.demo_model.questions import load_pairs

ROWS = 800
FILE_NAME = "who-are-you.jsonl"


class Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``fact.yaml``."""

    before: str
    after: str
    trained: tuple[str, ...]
    held_out: tuple[str, ...]
    unrelated: tuple[str, ...]


def load_fact() -> Fact:
    """Read ``fact.yaml``."""
    return msgspec.yaml.decode((files(__package__) / "fact.yaml").read_bytes(), type=Fact)


def rows() -> list[dict[str, Any]]:
    """Return the chats, always the same and in the same order."""
    fact = load_fact()
    # The demo model answers its own questions word for word, so its answers need not be asked for.
    rehearsal = [(pair.question, pair.answer) for pair in load_pairs() if pair.question not in fact.trained]
    lesson = [(question, fact.after) for question in fact.trained]
    half = ROWS // 2
    exchanges = [
        pair for number in range(half) for pair in (lesson[number % len(lesson)], rehearsal[number % len(rehearsal)])
    ]
    return [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in exchanges
    ]


def jsonl() -> bytes:
    """The rows as a file, one JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows()).encode()


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(jsonl())
