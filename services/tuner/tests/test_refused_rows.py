"""Rows that a real chat template refuses, and what a folder has no room for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kaito_local.demo_model.artifact import trained_model
from tuner import model
from tuner.config.recipe import DatasetSettings, Method, Recipe, parse
from tuner.data.fetch import Fetched
from tuner.data.prepare import prepare
from tuner.data.tokens import Encoder, MaskSource
from tuner.events import Emitter
from tuner.exits import ExitCode, FatalError
from tuner.job import Job
from tuner.room import RESERVE, Room
from tuner.train import Run

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '<|end|>' }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
)
NEVER_A_START = "{% if messages|length < 4 %}{{ raise_exception('too short') }}{% endif %}" + MARKED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def folder() -> Path:
    return await trained_model()


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return model.load_tokenizer(folder, Recipe(method=Method.LORA))


def row(*turns: str, **more: Any) -> str:
    roles = {"u": "user", "a": "assistant"}
    talk = [{"role": roles[turn[0]], "content": turn[1:]} for turn in turns]
    return json.dumps({"messages": talk, **more}) + "\n"


def fetched(path: Path, content: str) -> Fetched:
    path.write_text(content)
    return Fetched(path=str(path), shown=path.name, size=len(content), sha256="0" * 64)


GOOD = row("uWhat?", "aThat.")


@pytest.mark.parametrize(
    ("template", "bad", "why"),
    [
        (ALTERNATING, row("uone", "utwo", "athree"), "Conversation roles must alternate user/assistant"),
        (ALTERNATING, row("aHello.", "uHello."), "Conversation roles must alternate"),
        ("{{ messages[2].content }}" + MARKED, GOOD, ".*no element 2"),
        ("{% for t in tools or [] %}{{ t.name }}{% endfor %}" + MARKED, row("uq", "aa", tools="text"), "[Tt]ool"),
        ("{% for t in tools or [] %}{{ t.name }}{% endfor %}" + MARKED, row("uq", "aa", tools=[7]), "[Tt]ool"),
    ],
)
def test_a_row_that_the_chat_template_refuses_is_skipped_and_counted(
    tokenizer: Any, tmp_path: Path, template: str, bad: str, why: str
) -> None:
    tokenizer.chat_template = template
    encoder = Encoder(tokenizer, max_length=64, assistant_only=None)
    good = row("uone", "atwo", "uthree", "afour")
    preview = prepare([fetched(tmp_path / "rows", good * 3 + bad)], DatasetSettings(), encoder, tmp_path / "made")
    assert (preview.rows, preview.samples) == (4, 3)
    ((reason, count),) = preview.bad_rows.items()
    assert count == 1
    assert re.match(f"the chat template refuses it: .*{why}", reason), reason


def test_a_template_that_refuses_every_row_is_named(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.chat_template = ALTERNATING
    encoder = Encoder(tokenizer, max_length=64, assistant_only=None)
    with pytest.raises(
        FatalError, match="all 5 rows were skipped: the chat template refuses it: Conversation roles"
    ) as caught:
        prepare(
            [fetched(tmp_path / "rows", row("uone", "utwo", "ax") * 5)], DatasetSettings(), encoder, tmp_path / "made"
        )
    assert caught.value.code is ExitCode.DATA_INVALID


@pytest.mark.parametrize(
    ("template", "turns"),
    [(NEVER_A_START, ("uone", "atwo", "uthree", "afour")), (MARKED, ("aHello.", "uWhat?", "aThat."))],
    ids=["a start alone is refused", "the assistant speaks first"],
)
def test_a_conversation_whose_start_cannot_be_rendered_is_used(
    tokenizer: Any, tmp_path: Path, template: str, turns: tuple[str, ...]
) -> None:
    tokenizer.chat_template = template
    encoder = Encoder(tokenizer, max_length=64, assistant_only=None)
    preview = prepare([fetched(tmp_path / "rows", row(*turns))], DatasetSettings(), encoder, tmp_path / "made")
    assert (preview.samples, preview.bad_rows, encoder.used) == (1, {}, {MaskSource.MARKERS})


def test_a_table_that_the_folder_may_not_hold_ends_before_the_pod_is_evicted(tokenizer: Any, tmp_path: Path) -> None:
    encoder = Encoder(tokenizer, max_length=64, assistant_only=None)
    files = [fetched(tmp_path / "rows", GOOD * 5000)]
    small = Room(folder=str(tmp_path), limit=RESERVE + 2 * files[0].size)
    with pytest.raises(FatalError, match=r"the table of tokens needs .* \(--work-bytes\): give the data as") as caught:
        prepare(files, DatasetSettings(), encoder, tmp_path / "made", small)
    assert caught.value.code is ExitCode.DISK_FULL
    assert (tmp_path / "made" / "samples.arrow").stat().st_size + files[0].size < small.limit - RESERVE
    large = Room(folder=str(tmp_path), limit=RESERVE + 50 * files[0].size)
    assert prepare(files, DatasetSettings(), encoder, tmp_path / "made", large).samples == 5000


def test_an_adapter_that_the_folder_may_not_hold_ends_it_before_the_first_step(folder: Path, tmp_path: Path) -> None:
    recipe = parse("training_config: {TrainingArguments: {max_steps: 1}}", "lora")
    assert isinstance(recipe, Recipe)
    job = Job(
        recipe=recipe,
        model=str(folder),
        base_model="tiny",
        files=(fetched(tmp_path / "rows", GOOD * 30),),
        prepared=str(tmp_path / "prepared"),
        checkpoints=str(tmp_path / "checkpoints"),
        staging=str(tmp_path / "staging"),
        key="k",
        room=Room(folder=str(tmp_path), limit=RESERVE + 200_000),
    )
    run = Run(job, Emitter(""))
    with pytest.raises(
        FatalError, match=r"the finished adapter, with a copy for the registry, needs \d+ bytes"
    ) as caught:
        run.execute()
    assert caught.value.code is ExitCode.DISK_FULL
    assert not run.begun
