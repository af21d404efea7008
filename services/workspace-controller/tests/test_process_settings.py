"""Every setting is a flag and an environment variable; nonsense is named and nothing starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from workspace_controller.__main__ import parse
from workspace_controller.process_settings import ProcessSettings
from workspace_controller.settings import ClaimApi


def process(*flags: str, **environment: str) -> ProcessSettings:
    return parse(flags, environment)[1]


def test_defaults() -> None:
    found = process()
    assert found.leader is not None
    assert (found.leader.namespace, found.leader.name) == ("default", "workspace-controller")
    assert (found.health_port, found.metrics_port, found.webhook_port) == (8081, 8080, None)
    assert (found.kubeconfig, found.catalog, found.required_policies) == (None, None, ())


def test_a_flag_beats_its_variable_and_a_variable_its_default() -> None:
    prefix = {"WORKSPACE_CONTROLLER_WORKERS": "3", "WORKSPACE_CONTROLLER_CLAIM_API": "machine"}
    planning, found = parse(["--workers", "5"], prefix)
    assert found.workers == 5
    assert planning.claim_api is ClaimApi.MACHINE
    assert process(WORKSPACE_CONTROLLER_WORKERS="3").workers == 3


def test_the_lease_is_in_the_pod_s_namespace_unless_said_otherwise() -> None:
    leader = process(POD_NAMESPACE="kaito").leader
    assert leader is not None
    assert leader.namespace == "kaito"
    leader = process("--lease-namespace", "other", POD_NAMESPACE="kaito").leader
    assert leader is not None
    assert leader.namespace == "other"
    assert process("--leader-elect", "false").leader is None


def test_paths_and_lists() -> None:
    found = process("--required-policies", "a, b,", "--catalog", "/x", "--webhook-port", "9443", "--kubeconfig", "k")
    assert found.required_policies == ("a", "b")
    assert (found.catalog, found.webhook_port, found.kubeconfig) == (Path("/x"), 9443, "k")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--workers", "0"),
        ("--workers", "many"),
        ("--health-port", "-1"),
        ("--metrics-port", "80800"),
        ("--leader-elect", "maybe"),
        ("--log-level", "LOUD"),
        ("--sweep-seconds", "0"),
        ("--claim-api", "pod"),
    ],
)
def test_nonsense_is_refused_by_name(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse([f"{flag}={value}"], {})
    assert stopped.value.code == 2
    assert flag in capsys.readouterr().err


def test_help_names_every_setting_and_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"], {})
    text = capsys.readouterr().out
    flags = [word.strip("[],") for word in text.split() if word.startswith(("--", "[--"))]
    assert len(set(flags)) > 20
    for flag in set(flags) - {"--help"}:
        assert f"$WORKSPACE_CONTROLLER_{flag[2:].upper().replace('-', '_')}" in text
