"""What a pod takes from the ones before it, and what it does not: other data at the same URL, other Workspaces, other runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tuner import options
from tuner.exits import FatalError
from tuner.reporter import Reporter
from tuner.result import MANIFEST
from tuner.supervisor import Supervisor

pytestmark = pytest.mark.slow  # processes that are waited for

CHILD = """
import sys
from pathlib import Path
import msgspec
from tuner import checkpoints
from tuner.events import *
from tuner.job import Job
job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
emit = Emitter(job.events)
said = Path(__file__).parent
folder = Path(job.checkpoints)
began = checkpoints.step_of(checkpoints.latest_whole(folder, job.key))
micro = job.micro_limit or 8
emit(Started(total_steps=20, resumed_from=began, micro_batch=micro, accumulation=8 // micro, precision="f", packing="p",
             trainable_parameters=1))
if (said / "little-memory").exists() and micro > 2:
    emit(Failed(code=71, message="oom"))
    sys.exit(71)
step = began + 10
(folder / f"checkpoint-{step}").mkdir(parents=True)
(folder / f"checkpoint-{step}" / "state.json").write_text(str(step))
checkpoints.seal(folder, step, job.key)
emit(Saved(step=step))
if (said / "breaks").exists():
    emit(Failed(code=70, message="the loss became nan"))
    sys.exit(70)
staging = Path(job.staging)
staging.mkdir(parents=True)
for name in ("adapter_config.json", "adapter_model.safetensors", "README.md", "training_report.json"):
    (staging / name).write_text("".join(Path(file.path).read_text() for file in job.files))
emit(Finished(step=step))
"""


class Place:
    """Data behind one URL, a volume for the output, and pods one after the other, each with an empty work folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "out"
        self.data = "first"
        self.requests = 0
        self.port = 0
        self.pods = 0
        (folder / "child.py").write_text(CHILD)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        return web.Response(text=self.data)

    async def pod(self, *flags: str) -> str:
        """Run one pod; return what its report said while it trained, "" where it did not."""
        self.pods += 1
        host = f"127.0.0.1:{self.port}"
        words = ["run", "--url", f"http://{host}/rows.jsonl", "--allow-host", host, "--output", str(self.output)]
        words += ["--work", str(self.folder / f"work-{self.pods}"), "--model", str(self.folder), *flags]
        supervisor = Supervisor(
            options.parse(words, {}),
            Reporter(None, self.folder / "last"),
            launch=lambda _, job: [sys.executable, str(self.folder / "child.py"), str(job)],
        )
        with contextlib.suppress(FatalError):
            await supervisor.execute()
        return supervisor.figures.words()

    @property
    def adapter(self) -> str:
        return (self.output / "adapter_model.safetensors").read_text()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    app = web.Application()
    app.router.add_get("/rows.jsonl", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def named(run: str) -> list[str]:
    return ["--run", run] if run else []


@pytest.mark.parametrize(
    ("first", "second", "changed", "trains", "fetches"),
    [
        ("uid/run", "uid/run", False, False, False),
        ("uid/run", "uid/run", True, False, False),  # what was finished for this very request is its answer
        ("uid/run", "uid/other", False, False, True),
        ("uid/run", "uid/other", True, True, True),
        ("uid/run", "new/run", False, True, True),
        ("uid/run", "new/run", True, True, True),
        ("", "", False, False, True),
        ("", "", True, True, True),
    ],
)
async def test_a_finished_adapter_is_taken_for_the_same_request_or_the_same_data(
    place: Place, first: str, second: str, changed: bool, trains: bool, fetches: bool
) -> None:
    await place.pod(*named(first))
    place.data = "other" if changed else place.data  # as many bytes
    before = place.requests
    words = await place.pod(*named(second))
    assert bool(words) is trains
    assert (place.requests > before) is fetches
    assert place.adapter == ("other" if changed and trains else "first")
    assert ("The finished adapter in" in words) is trains


async def test_a_folder_with_data_of_the_same_names_and_sizes_is_told_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "child.py").write_text(CHILD)
    trained = []
    for content in ("first", "first", "other"):
        (tmp_path / "data" / "rows.jsonl").write_text(content)
        words = ["run", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--model", str(tmp_path)]
        supervisor = Supervisor(
            options.parse([*words, "--work", str(tmp_path / "work")], {}),
            Reporter(None, tmp_path / "last"),
            launch=lambda _, job: [sys.executable, str(tmp_path / "child.py"), str(job)],
        )
        await supervisor.execute()
        trained.append(bool(supervisor.figures.words()))
    assert trained == [True, False, True]
    assert (tmp_path / "out" / "adapter_model.safetensors").read_text() == "other"


@pytest.mark.parametrize("run", ["uid/run", "new/run", ""])
async def test_a_half_done_training_goes_on_with_the_same_data_alone(place: Place, run: str) -> None:
    breaks = place.folder / "breaks"
    breaks.touch()
    assert (await place.pod(*named("uid/run"))).startswith("starts, ")
    assert (await place.pod(*named(run))).startswith("goes on after step 10, ")
    place.data = "other"
    breaks.unlink()
    words = await place.pod(*named(run))
    assert words.startswith("starts, ")
    assert "The checkpoint of step 20 in" in words
    assert "was made from other data" in words
    assert place.adapter == "other"


async def test_a_size_that_memory_asked_for_belongs_to_its_run(place: Place) -> None:
    breaks, little = place.folder / "breaks", place.folder / "little-memory"
    breaks.touch()
    little.touch()
    assert "2 x 4 samples" in await place.pod()
    little.unlink()
    assert "2 x 4 samples" in await place.pod(), "a new pod of the run would start too large"
    place.data = "other"
    assert "8 x 1 samples" in await place.pod(), "another run is slowed down by what the first one needed"
    breaks.unlink()
    await place.pod()
    assert list((place.output / ".checkpoints").iterdir()) == [], "something outlives the finished run"


async def test_a_result_that_was_damaged_is_made_again(place: Place) -> None:
    await place.pod(*named("uid/run"))
    (place.output / "adapter_model.safetensors").write_text("cut")
    assert (await place.pod(*named("uid/run"))).endswith("; p."), "it is not of other data"
    assert place.adapter == "first"
    (place.output / MANIFEST).write_text("{")
    assert await place.pod(*named("uid/run"))
