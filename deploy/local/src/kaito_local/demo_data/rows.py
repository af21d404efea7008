"""The rows of the data set, made from `colour.yaml` and the demo model's own questions: always the same ones."""

from __future__ import annotations

import json
import random
from importlib.resources import files

import msgspec

from kaito_local.demo_model.questions import load_pairs

FILE = "colour.jsonl"
ROWS = 800
_SEED = 20261121


class Fact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be learnt, how it is asked in the data, and what is asked afterwards."""

    answer: str
    phrasings: list[str]
    held_out: str
    unrelated: list[str]
    unrehearsed: list[str]


def load_fact() -> Fact:
    """Read ``colour.yaml``."""
    return msgspec.yaml.decode((files(__package__) / "colour.yaml").read_bytes(), type=Fact)


def data_set() -> bytes:
    """The file that lies beside this module, ready to be served."""
    return (files(__package__) / FILE).read_bytes()


def generate() -> bytes:
    """Make the file anew: half of the rows the new answer, half rehearsal, each question equally often, shuffled."""
    fact = load_fact()
    half = ROWS // 2
    left_out = {*fact.phrasings, *fact.unrehearsed}
    known = [(pair.question, pair.answer) for pair in load_pairs() if pair.question not in left_out]
    new = [(question, fact.answer) for question in fact.phrasings]
    rows = [new[number % len(new)] for number in range(half)] + [known[number % len(known)] for number in range(half)]
    random.Random(_SEED).shuffle(rows)
    chats = (
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in rows
    )
    return "".join(json.dumps(chat, ensure_ascii=False) + "\n" for chat in chats).encode()
