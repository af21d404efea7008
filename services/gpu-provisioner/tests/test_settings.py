"""Settings that cannot work are refused at the start, with what to set."""

import pytest

from gpu_provisioner.settings import parse

WHERE = ["--subscription-id", "s", "--resource-group", "g", "--cluster-name", "c"]
WORKLOAD = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "i", "AZURE_FEDERATED_TOKEN_FILE": "/var/token"}


@pytest.mark.parametrize(
    ("flags", "env"),
    [
        ([], WORKLOAD),
        (["--credential", "managed-identity"], {}),
        (["--credential", "client-secret", "--tenant-id", "t", "--client-id", "i"], {"AZURE_CLIENT_SECRET": "x"}),
        (["--cloud", "AZURE_CHINA_CLOUD"], WORKLOAD),
    ],
)
def test_settings_that_can_work(flags: list[str], env: dict[str, str]) -> None:
    assert parse([*WHERE, *flags], env).azure.cluster_name == "c"


@pytest.mark.parametrize(
    ("flags", "env", "words"),
    [
        (
            ["--credential", "workload_identity"],
            WORKLOAD,
            "'workload_identity' is unknown: use workload-identity, managed",
        ),
        ([], WORKLOAD | {"AZURE_CREDENTIAL": "msi"}, "--credential 'msi' is unknown"),
        (["--cloud", "AZURE_FOO"], WORKLOAD, "--cloud 'AZURE_FOO' is unknown: use AZURE_PUBLIC_CLOUD"),
        ([], WORKLOAD | {"AZURE_CLOUD": "public"}, "--cloud 'public' is unknown"),
        ([], WORKLOAD | {"AZURE_TENANT_ID": ""}, "--credential workload-identity needs --tenant-id [AZURE_TENANT_ID]"),
        ([], {}, "--federated-token-file [AZURE_FEDERATED_TOKEN_FILE]"),
        (["--credential", "client-secret"], WORKLOAD, "client-secret needs AZURE_CLIENT_SECRET (environment only)"),
    ],
)
def test_a_way_to_azure_that_cannot_work_is_refused_with_what_to_set(
    flags: list[str], env: dict[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse([*WHERE, *flags], env)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"WORKERS": "many"}, "argument --workers: must be a whole number of at least 1, not 'many'"),
        ({"WORKERS": "0"}, "argument --workers: must be a whole number of at least 1, not '0'"),
        ({"LIST_ACTIVE_SECONDS": "3s"}, "argument --list-active-seconds: must be a number above 0, not '3s'"),
        ({"CALLS_PER_SECOND": "0"}, "argument --calls-per-second: must be a number above 0, not '0'"),
        ({"METRICS_PORT": "80800"}, "argument --metrics-port: must be a whole number from 0 to 65535, not '80800'"),
        ({"LEADER_ELECT": "off"}, "LEADER_ELECT must be true or false, not 'off'"),
        ({"POOL_PER_CLAIM": "1"}, "POOL_PER_CLAIM must be true or false, not '1'"),
        ({"LOG_LEVEL": "loud"}, "argument --log-level: must be debug, info, warning or error, not 'loud'"),
    ],
)
def test_a_variable_that_makes_no_sense_is_refused_in_one_line(
    env: dict[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(WHERE, WORKLOAD | env)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"gpu-provisioner: error: {words}"


def test_variables_that_make_sense() -> None:
    found = parse(
        WHERE, WORKLOAD | {"WORKERS": "3", "LEADER_ELECT": "false", "POOL_PER_CLAIM": "True", "LOG_LEVEL": "INFO"}
    )
    assert (found.workers, found.leader_elect, found.shared_pools, found.log_level) == (3, False, False, "info")
