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
