"""The command line: parsed without importing an engine, refused with words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kaito_api.meta import Key
from model_server import options
from model_server.dtype import Bound
from model_server.exits import ExitCode, FatalError
from model_server.options import FetchOptions, ServeOptions
from model_server.registries import registry_settings


def test_the_contracts_command() -> None:
    line = (
        "serve --model /workspace/weights --served-model-name phi --workspace ns/ws --port 5000 "
        "--config /mnt/config/inference_config.yaml --dtype-bound float16 --adapters-dir /mnt/adapter "
        "-- --enable-lora --max-loras=4"
    )
    parsed = options.parse(line.split(), {})
    assert isinstance(parsed, ServeOptions)
    assert parsed.workspace == Key("ns", "ws")
    assert parsed.dtype_bound is Bound.FLOAT16
    assert parsed.engine_arguments == ("--enable-lora", "--max-loras=4")


def test_fetch() -> None:
    line = "fetch oci://r/x:1 --to /w --workspace ns/ws --plain-http r --plain-http s:5"
    parsed = options.parse(line.split(), {})
    assert isinstance(parsed, FetchOptions)
    assert (parsed.source, parsed.to, parsed.plain_http) == ("oci://r/x:1", Path("/w"), ("r", "s:5"))


@pytest.mark.parametrize("line", ["fetch oci://r/x:1 --to /w", "serve --served-model-name x"])
def test_registries(line: str) -> None:
    parsed = options.parse([*line.split(), "--trust-realm", "login.corp"], {"KAITO_CA_BUNDLE": "/ca.pem"})
    found = registry_settings(parsed)
    assert (found.ca_bundle, set(found.trusted_realms), set(found.plain_http_hosts)) == (
        "/ca.pem",
        {"login.corp"},
        set(),
    )
    assert options.parse([*line.split(), "--ca-bundle", "/other"], {"KAITO_CA_BUNDLE": "/ca.pem"}).ca_bundle == "/other"


def test_settings_are_environment_variables_too() -> None:
    parsed = options.parse(
        ["serve", "--served-model-name", "x"], {"MODEL_SERVER_PORT": "8000", "MODEL_SERVER_DRAIN_SECONDS": "7"}
    )
    assert isinstance(parsed, ServeOptions)
    assert (parsed.port, parsed.drain_seconds) == (8000, 7.0)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "serve",
        "bake",
        "serve --served-model-name x --port 70000",
        "serve --served-model-name x --workspace ns",
        "serve --served-model-name x --workspace a/b/c",
        "serve --served-model-name x --drain-seconds -1",
        "fetch --to /w",
        "fetch oci://x --to /w -- --enable-lora",
    ],
)
def test_bad_usage(line: str) -> None:
    with pytest.raises(FatalError) as caught:
        options.parse(line.split(), {})
    assert caught.value.code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "http"), ("DTYPE_BOUND", "int4"), ("INIT", "maybe"), ("DISABLE_RATE_LIMIT", "yes"), ("WORKSPACE", "ws")],
)
def test_a_variable_that_makes_no_sense_is_bad_usage_too(name: str, value: str) -> None:
    with pytest.raises(FatalError, match="must be ") as caught:
        options.parse(["serve", "--served-model-name", "x"], {f"MODEL_SERVER_{name}": value})
    assert caught.value.code is ExitCode.USAGE


def test_help_and_checks_load_no_engine() -> None:
    code = (
        "import sys; from model_server.__main__ import main; code = main(['fetch', 'bogus', '--to', '/nonexistent']);"
        "assert not {'vllm', 'torch', 'transformers'} & set(sys.modules), 'heavy import'; sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=30)
    assert ended.returncode == ExitCode.USAGE, ended.stderr.decode()
