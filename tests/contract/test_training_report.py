"""What the tuner writes beside an adapter never keeps the packager from pushing it: hours of a GPU lie between the two."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from adapter_packager import folder
from adapter_packager.annotations import DATASETS, METRICS, manifest_annotations
from tuner import result
from tuner.config.recipe import Method, Recipe
from tuner.data.fetch import Fetched
from tuner.data.preview import Source, Tally
from tuner.job import Job

CONFIG = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["o_proj"]}


def adapter(path: Path, report: bytes) -> folder.Adapter:
    """Read a small adapter with that report, as the packager does before it pushes."""
    sides = {"A": [2, 8], "B": [8, 2]}
    names = {side: f"base_model.model.model.layers.0.self_attn.o_proj.lora_{side}.weight" for side in sides}
    header = {
        names[side]: {"dtype": "F32", "shape": shape, "data_offsets": [64 * number, 64 * number + 64]}
        for number, (side, shape) in enumerate(sides.items())
    }
    encoded = json.dumps(header).encode()
    (path / "adapter_config.json").write_text(json.dumps(CONFIG))
    (path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + bytes(128))
    (path / result.REPORT).write_bytes(report)
    return folder.read(path)


def facts(losses: list[float], held_out: list[float], files: int = 1) -> result.Facts:
    """A finished run with these losses, over so many files."""
    sources = [
        Source(name=f"rows/{number:06}.json", format="json", shape="text", rows=1, used=1, sha256="0" * 64)
        for number in range(files)
    ]
    fetched = Fetched(path="/data/rows", shown="rows", size=1, sha256="0" * 64)
    job = Job(
        recipe=Recipe(method=Method.LORA),
        model="/model",
        base_model="phi-3",
        files=(fetched,) * files,
        prepared="/p",
        checkpoints="/c",
        staging="/s",
        key="0" * 64,
    )
    return result.Facts(
        job=job,
        preview=Tally().preview(sources, ""),
        losses=tuple(enumerate(losses, 1)),
        eval_losses=tuple(enumerate(held_out, 1)),
        steps=len(losses),
        seconds=1.0,
        precision="float16",
        packing="",
    )


def written(made: result.Facts) -> bytes:
    return msgspec.json.format(msgspec.json.encode(result.training_report(made)), indent=2)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("held_out", "kept"), [([1.5], [1.5]), ([], [])])
def test_a_loss_on_held_out_samples_that_is_no_number(
    tmp_path: Path, held_out: list[float], kept: list[float], odd: float
) -> None:
    """In float16 one unusual sample is enough for that, while the training itself is well."""
    made = facts([2.0, 1.0], [*held_out, odd])
    report: Any = json.loads(written(made))
    assert [loss for _, loss in report["evalLosses"]] == kept
    found = manifest_annotations(adapter(tmp_path, written(made)))
    assert json.loads(found[METRICS]) == {"loss": 1.0, "steps": 2.0, "trainSeconds": 1.0}
    assert not {"nan", "inf"} & set(result.readme(result.training_report(made), made).lower().split())


def test_a_report_of_before_with_a_null_in_it(tmp_path: Path) -> None:
    found = manifest_annotations(adapter(tmp_path, b'{"metrics": {"loss": 1.0, "evalLoss": null}}'))
    assert json.loads(found[METRICS]) == {"loss": 1.0}


def test_a_data_set_of_very_many_files(tmp_path: Path) -> None:
    found = manifest_annotations(adapter(tmp_path, written(facts([2.0, 1.0], [], files=50_000))))
    assert found[DATASETS].startswith("sha256:0000")
