"""API keys: what a folder of files amounts to, and that a changed one counts at once."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kubecore.testing.clock import FakeClock
from model_server.api_keys import LOOK_SECONDS, ApiKeys, accepts, digests

NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "valid", "invalid", "unusable"),
    [
        ({"a": b"sk-one"}, [b"sk-one"], [b"sk-on", b"sk-one ", b"SK-ONE", b""], ()),
        ({"a": b"sk-one\n", "b": b"  sk-two\r\n"}, [b"sk-one", b"sk-two"], [b"sk-one\n"], ()),
        ({"a": b"", "b": b"\n"}, [], [b"", b"\n"], ("a", "b")),
        (
            {"a": b"two\nlines", "b": b"two words", "c": "schlüssel".encode(), "d": b"good"},
            [b"good"],
            [],
            ("a", "b", "c"),
        ),
        ({}, [], [b"", b"x"], ()),
    ],
)
def test_every_value_is_a_key(
    values: dict[str, bytes], valid: list[bytes], invalid: list[bytes], unusable: tuple[str, ...]
) -> None:
    known, left_out = digests(values)
    assert left_out == unusable
    assert all(accepts(known, key) for key in valid)
    assert not any(accepts(known, key) for key in invalid)
    assert len(known) == len(valid)


class Secret:
    """A folder as kubelet keeps it: `..data` leads to a folder of one version, the files' names lead through it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._version = 0
        folder.mkdir()

    def project(self, **values: str) -> None:
        before = {path.name for path in self.folder.iterdir() if not path.name.startswith("..")}
        self._version += 1
        version = self.folder / f"..version-{self._version}"
        version.mkdir()
        for name, value in values.items():
            (version / name).write_text(value)
        swap = self.folder / "..data_tmp"
        swap.symlink_to(version.name)
        swap.replace(self.folder / "..data")
        for name in values.keys() - before:
            (self.folder / name).symlink_to(f"..data/{name}")
        for name in before - values.keys():
            (self.folder / name).unlink()


@pytest.fixture
def secret(tmp_path: Path) -> Secret:
    return Secret(tmp_path / "api-keys")


def test_keys_are_rotated_without_a_gap(secret: Secret) -> None:
    clock = FakeClock(NOW)
    secret.project(old="one")
    keys = ApiKeys(secret.folder, clock)
    keys.refresh()
    seen = [(keys.accepts(b"one"), keys.accepts(b"two"))]
    for values in ({"old": "one", "new": "two"}, {"new": "two"}):
        secret.project(**values)
        clock.tick(LOOK_SECONDS)
        keys.refresh()
        seen.append((keys.accepts(b"one"), keys.accepts(b"two")))
    assert seen == [(True, False), (True, True), (False, True)]


def test_a_value_that_changes_under_its_name_is_noticed(secret: Secret) -> None:
    clock = FakeClock(NOW)
    secret.project(key="aaaa")
    keys = ApiKeys(secret.folder, clock)
    keys.refresh()
    secret.project(key="bbbb")
    keys.refresh()
    assert keys.accepts(b"aaaa")  # looked at a moment ago
    clock.tick(LOOK_SECONDS)
    keys.refresh()
    assert (keys.accepts(b"aaaa"), keys.accepts(b"bbbb")) == (False, True)


def test_without_keys_nobody_is_let_in_and_it_is_said(secret: Secret, tmp_path: Path) -> None:
    clock, said = FakeClock(NOW), list[bool]()
    keys = ApiKeys(secret.folder, clock)
    keys.refresh()
    keys.listen(said.append)

    def later() -> None:
        clock.tick(LOOK_SECONDS)
        keys.refresh()

    secret.project(empty="")
    later()
    assert not keys.accepts(b"")
    secret.project(key="k")
    later()
    later()
    secret.folder.rename(tmp_path / "away")
    later()
    assert not keys.accepts(b"k")
    (tmp_path / "away").rename(secret.folder)
    later()
    assert keys.accepts(b"k")
    assert said == [False, True, False, True]


def test_keys_are_in_no_log_line(secret: Secret, caplog: pytest.LogCaptureFixture) -> None:
    secret.project(good="sk-secret", bad="sk-secret with spaces")
    with caplog.at_level(logging.DEBUG):
        ApiKeys(secret.folder, FakeClock(NOW)).refresh()
        ApiKeys(secret.folder / "absent", FakeClock(NOW)).refresh()
    text = "\n".join(str(vars(record)) for record in caplog.records)
    assert "'unusable': ['bad']" in text
    assert "cannot be read" in text
    assert "sk-secret" not in text


def test_a_key_in_a_file_that_cannot_be_read_is_no_reason_to_open(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    keys = ApiKeys(tmp_path, FakeClock(NOW))
    keys.refresh()
    assert not keys.accepts(b"")
