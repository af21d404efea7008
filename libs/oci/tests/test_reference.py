import pytest

from kaito_oci import Reference
from kaito_oci.errors import InvalidReference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "api_host", "target"),
    [
        ("busybox", "docker.io/library/busybox:latest", "registry-1.docker.io", "latest"),
        ("me/model:v1", "docker.io/me/model:v1", "registry-1.docker.io", "v1"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest", "registry-1.docker.io", "latest"),
        ("mcr.microsoft.com/aks/kaito/phi-3:0.1", "mcr.microsoft.com/aks/kaito/phi-3:0.1", "mcr.microsoft.com", "0.1"),
        ("localhost/a:b", "localhost/a:b", "localhost", "b"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest", "localhost:5000", "latest"),
        ("[::1]:5000/a:b", "[::1]:5000/a:b", "[::1]:5000", "b"),
        (f"ghcr.io/a/b@{DIGEST}", f"ghcr.io/a/b@{DIGEST}", "ghcr.io", DIGEST),
        (f"ghcr.io/a/b:t@{DIGEST}", f"ghcr.io/a/b:t@{DIGEST}", "ghcr.io", DIGEST),
    ],
)
def test_parses_as_docker_does(text: str, full: str, api_host: str, target: str) -> None:
    reference = Reference.parse(text)
    assert (str(reference), reference.api_host, reference.target) == (full, api_host, target)
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        "UPPER/case",
        "ghcr.io/",
        "ghcr.io/a//b",
        "ghcr.io/a:",
        "ghcr.io/a:t@sha256:short",
        "ghcr.io/a@md5:" + "a" * 32,
        "ghcr.io/a/../b",
        "user:password@ghcr.io/a",
        "http://ghcr.io/a",
        "ghcr.io:port/a",
        "ghcr.io/a\n:b",
        "-bad.io/a",
        "ghcr.io/" + "a" * 300,
    ],
)
def test_refuses_what_is_no_reference(text: str) -> None:
    with pytest.raises(InvalidReference):
        Reference.parse(text)


def test_pins_to_a_digest() -> None:
    assert str(Reference.parse("ghcr.io/a/b:t").pinned(DIGEST)) == f"ghcr.io/a/b@{DIGEST}"
