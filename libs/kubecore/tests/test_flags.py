"""A value that makes no sense ends the start with one line, whether a flag or a variable brought it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import pytest

from kubecore import flags


def parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="service")
    made.add_argument("--workers", type=flags.whole(1), default=environment.get("WORKERS", "20"))
    made.add_argument("--port", type=flags.port, default=environment.get("PORT", "0"))
    made.add_argument("--seconds", type=flags.positive, default=environment.get("SECONDS", "3"))
    made.add_argument("--patience", type=flags.not_negative, default=environment.get("PATIENCE", "0"))
    made.add_argument("--mode", type=flags.one_of("a", "b", "c"), default=environment.get("MODE", "a"))
    made.add_argument("--object", type=flags.object_key, default=environment.get("OBJECT", ""))
    made.add_argument("--on", action="store_true", default=flags.switched(made, environment, "ON"))
    return made


def test_defaults() -> None:
    found = parser({}).parse_args([])
    assert (found.workers, found.port, found.seconds, found.mode, found.object, found.on) == (
        20,
        0,
        3,
        "a",
        None,
        False,
    )


def test_the_flag_wins_over_the_variable() -> None:
    found = parser({"WORKERS": "3", "MODE": "b", "OBJECT": "ns/a", "ON": "True"}).parse_args(["--workers", "4"])
    assert (found.workers, found.mode, str(found.object), found.on) == (4, "b", "ns/a", True)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("workers", "many", "must be a whole number of at least 1, not 'many'"),
        ("workers", "0", "must be a whole number of at least 1"),
        ("workers", "2.5", "must be a whole number"),
        ("port", "65536", "must be a whole number from 0 to 65535"),
        ("seconds", "soon", "must be a number above 0, not 'soon'"),
        ("seconds", "0", "must be a number above 0"),
        ("seconds", "nan", "must be a number above 0"),
        ("seconds", "inf", "must be a number above 0"),
        ("patience", "-1", "must be a number from 0, not '-1'"),
        ("patience", "nan", "must be a number from 0"),
        ("mode", "d", "must be a, b or c, not 'd'"),
        ("object", "name", "must be NAMESPACE/NAME, not 'name'"),
        ("object", "a/b/c", "must be NAMESPACE/NAME"),
    ],
)
def test_refused(name: str, text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    ways: list[tuple[Mapping[str, str], Sequence[str]]] = [({name.upper(): text}, []), ({}, [f"--{name}={text}"])]
    for environment, arguments in ways:
        with pytest.raises(SystemExit) as stopped:
            parser(environment).parse_args(arguments)
        assert stopped.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"service: error: argument --{name}: ")
        assert words in last


def test_a_switch_is_true_or_false(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser({"ON": "yes"})
    assert "ON must be true or false, not 'yes'" in capsys.readouterr().err
