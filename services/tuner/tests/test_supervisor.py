"""Everything that ends before the training child is started: no torch here."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from kaito_api.report import Report, TuningReport, decode
from kaito_local.ports import free_ports
from tuner import options
from tuner.events import Evaluated, Saved, Started, Stepped
from tuner.exits import PERMANENT, REASONS, ExitCode, FatalError
from tuner.figures import Figures
from tuner.metrics import exposition, serving
from tuner.reporter import Reporter
from tuner.supervisor import Supervisor

pytestmark = pytest.mark.slow  # processes and sockets that are waited for


def model_folder(folder: Path) -> Path:
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    return model


async def run(folder: Path, *arguments: str, stop: bool = False) -> tuple[int, Report]:
    last = folder / "last"
    last.touch()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tuner", "run", "--model", str(model_folder(folder)), "--output", str(folder / "out")),
        *("--work", str(folder / "work"), *arguments),
        env={**os.environ, "TUNER_TERMINATION_LOG": str(last)},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    if stop:
        while b'"Fetching"' not in (line := await process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGTERM)
    _, log = await process.communicate()
    report = decode(last.read_text())
    assert report is not None, log.decode()
    assert process.returncode is not None
    return process.returncode, report


@pytest.mark.parametrize(
    ("arguments", "config", "code", "words"),
    [
        (
            ("--url", "https://example.org/x"),
            "training_config: {LoraConfig: {rank: 8}}",
            65,
            "LoraConfig.rank is not a known",
        ),
        (
            ("--url", "https://example.org/x", "--method", "lora"),
            "training_config: {QuantizationConfig: {load_in_4bit: true}}",
            65,
            "choose method qlora",
        ),
        (("--url", "ftp://example.org/x"), "", 73, "tuning.input.urls: ftp://example.org/x is not a web address"),
        (("--url", "https://127.0.0.1/x"), "", 73, "not an address of the public internet"),
        (("--url", "https://169.254.169.254/x"), "", 73, "not an address of the public internet"),
        (("--data", "/nonexistent"), "", 73, "holds no file"),
    ],
)
async def test_bad_input_ends_with_a_code_and_words(
    tmp_path: Path, arguments: tuple[str, ...], config: str, code: int, words: str
) -> None:
    file = tmp_path / "training_config.yaml"
    file.write_text(config)
    found, report = await run(tmp_path, *arguments, "--config", str(file))
    assert found == code
    assert (report.state, report.reason) == ("Failed", REASONS[ExitCode(code)])
    assert words in report.message
    assert not (tmp_path / "out" / "adapter_config.json").exists()


async def test_sigterm_while_fetching_ends_at_once(tmp_path: Path) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(300)
        return web.Response()

    app = web.Application()
    app.router.add_get("/rows.jsonl", silent)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host = f"127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with asyncio.timeout(50):
            code, report = await run(tmp_path, "--url", f"http://{host}/rows.jsonl", "--allow-host", host, stop=True)
    finally:
        await runner.cleanup()
    assert code == ExitCode.INTERRUPTED
    assert (report.state, report.reason) == ("Fetching", "Interrupted")


SAYS_WHAT_IT_WAS_GIVEN = """
import sys
from pathlib import Path
import msgspec
from tuner.events import Emitter, Failed
from tuner.job import Job
job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
words = " ".join(f"{file.shown.rpartition('/')[2]}={Path(file.path).read_text().strip()}" for file in job.files)
Emitter(job.events)(Failed(code=73, message=words))
sys.exit(73)
"""


async def test_several_urls_reach_the_training_in_their_order(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(text=request.path.strip("/") + "\n")

    app = web.Application()
    app.router.add_get("/{name}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host = f"127.0.0.1:{runner.addresses[0][1]}"
    pin = hashlib.sha256(b"two\n").hexdigest()
    program = tmp_path / "program.py"
    program.write_text(SAYS_WHAT_IT_WAS_GIVEN)
    folders = ["--model", str(model_folder(tmp_path)), "--output", str(tmp_path / "out"), "--work", str(tmp_path / "w")]
    urls = ["--url", f"http://{host}/one", "--url", f"http://{host}/two#sha256={pin}", "--allow-host", host]
    supervisor = Supervisor(
        options.parse(["run", *folders, *urls], {}),
        Reporter(None, tmp_path / "last"),
        launch=lambda _, job: [sys.executable, str(program), str(job)],
    )
    try:
        with pytest.raises(FatalError, match=r"^one=one two=two$"):
            await supervisor.execute()
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run"], "either as --url"),
        (["run", "--url", "https://x", "--data", "/d"], "either as --url"),
        (["run", "--url", "u", "--method", "full"], "--method: must be lora or qlora"),
        (["run", "--url", "u", "--allow-host", "h"], "not HOST:PORT"),
        (["run", "--url", "u", "--workspace", "w"], "--workspace: must be NAMESPACE/NAME"),
        (["run", "--url", "u", "--run", "n"], "not OWNER/NAME"),
        (["run", "--url", "u", "--work-bytes", "-1"], "--work-bytes: must be a whole number of at least 0"),
        (["run", "--url", "u", "--hang-seconds", "-1"], "--hang-seconds: must be a number above 0"),
        (["walk"], "invalid choice"),
    ],
)
def test_wrong_usage(argv: list[str], words: str) -> None:
    with pytest.raises(FatalError, match=words) as caught:
        options.parse(argv, {})
    assert caught.value.code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("name", "value"),
    [("METHOD", "full"), ("SHARDING", "zero"), ("RESTARTS", "some"), ("GRACE_SECONDS", "1m"), ("DRY_RUN", "yes")],
)
def test_a_variable_that_makes_no_sense_is_wrong_usage_too(name: str, value: str) -> None:
    with pytest.raises(FatalError, match=f"must be .*, not '{value}'") as caught:
        options.parse(["run", "--url", "u"], {f"TUNER_{name}": value})
    assert caught.value.code is ExitCode.USAGE


def test_settings_come_from_the_environment_too() -> None:
    given = {"TUNER_URLS": "https://a https://b", "TUNER_ALLOW_HOSTS": "Data.example:8080", "TUNER_DRY_RUN": "true"}
    found = options.parse(["run"], {**given, "TUNER_METHOD": "lora", "TUNER_OUTPUT": "/o"})
    assert (found.urls, found.method, found.dry_run) == (("https://a", "https://b"), "lora", True)
    assert found.policy.allowed_hosts == {("data.example", 8080)}
    assert found.checkpoints == Path("/o/.checkpoints")


def test_what_a_new_pod_can_mend_is_not_permanent() -> None:
    assert set(ExitCode) - PERMANENT == {ExitCode.OK, ExitCode.DATA_UNAVAILABLE, ExitCode.INTERRUPTED}
    assert set(REASONS) == set(ExitCode) - {ExitCode.OK}


def stepped(step: int, loss: float) -> Stepped:
    return Stepped(step=step, epoch=0.5, loss=loss, learning_rate=1, tokens_per_second=9.96, peak_memory_bytes=7)


def test_figures_are_folded_from_events() -> None:
    figures = Figures()
    figures.take(
        Started(
            total_steps=10,
            resumed_from=4,
            micro_batch=4,
            accumulation=2,
            precision="float32",
            packing="p",
            trainable_parameters=3,
        )
    )
    for event in (stepped(5, 2.5), Evaluated(step=5, loss=2.75), Saved(step=5)):
        figures.take(event)
    report = figures.report()
    assert (report.step, report.total_steps, report.loss, report.eval_loss) == (5, 10, 2.5, 2.75)
    assert (report.checkpoint, report.tokens_per_second, figures.saved) == ("checkpoint-5", 10.0, 5)
    assert figures.words().startswith("goes on after step 4, 10 steps, 4 x 2 samples")
    assert "3 trained numbers, computed in float32; p." in figures.words()


async def test_metrics_are_served_without_what_is_not_known_yet() -> None:
    assert "eval_loss" not in exposition(TuningReport(step=1))
    figures = Figures()
    figures.take(stepped(3, 1.25))
    (port,) = free_ports(1)
    async with (
        serving(port, figures),
        aiohttp.ClientSession() as client,
        client.get(f"http://127.0.0.1:{port}/metrics") as response,
    ):
        text = await response.text()
    assert "# TYPE kaito_tuner_loss gauge\nkaito_tuner_loss 1.25\n" in text


def test_every_reason_is_one_word() -> None:
    assert all(json.dumps(reason).strip('"').isalnum() for reason in REASONS.values())
