import pytest

from kaito_oci.challenge import Challenge, parse, realm_problem, same_site


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull"',
            Challenge("bearer", "https://auth.docker.io/token", "registry.docker.io", "repository:a/b:pull"),
        ),
        ('Basic realm="test"', Challenge("basic", "test")),
        ('Basic realm="x", Bearer realm="https://a/t", service=s', Challenge("bearer", "https://a/t", "s")),
        ('bearer REALM = "https://a/t"', Challenge("bearer", "https://a/t")),
        (r'Bearer realm="https://a/\"t"', Challenge("bearer", 'https://a/"t')),
        ('Bearer scope="Basic pull",realm="https://a/t"', Challenge("bearer", "https://a/t", "", "Basic pull")),
        ("Negotiate", None),
        ("", None),
    ],
)
def test_parses_www_authenticate(header: str, expected: Challenge | None) -> None:
    assert parse(header) == expected


@pytest.mark.parametrize(
    ("realm", "registry", "fine"),
    [
        ("https://auth.docker.io/token", "registry-1.docker.io", True),
        ("https://gitlab.com/jwt/auth", "registry.gitlab.com", True),
        ("https://my.azurecr.io/oauth2/token", "my.azurecr.io", True),
        ("https://my.azurecr.io:443/oauth2/token", "my.azurecr.io", True),
        ("http://localhost:5001/token", "localhost:5000", True),
        ("https://trusted.example/token", "registry.other.net", True),
        ("https://evil.azurecr.io/oauth2/token", "my.azurecr.io", False),
        ("https://evil.example/token", "registry-1.docker.io", False),
        ("https://docker.io.evil.example/token", "registry-1.docker.io", False),
        ("https://evil.co.uk/token", "registry.co.uk", False),
        ("https://a.firm.co.uk/token", "registry.firm.co.uk", True),
        ("http://auth.docker.io/token", "registry-1.docker.io", False),
        ("https://10.0.0.2/token", "10.0.0.1:5000", False),
        ("https://me:pw@auth.docker.io/token", "registry-1.docker.io", False),
        ("ftp://auth.docker.io/token", "registry-1.docker.io", False),
        ("/token", "registry-1.docker.io", False),
    ],
)
def test_credentials_go_to_the_registrys_own_site_only(realm: str, registry: str, fine: bool) -> None:
    problem = realm_problem(
        realm, registry, plain_http_hosts={"localhost:5001"}, trusted_realms={"trusted.example"}, with_credentials=True
    )
    assert (problem == "") is fine


@pytest.mark.parametrize(
    ("realm", "fine"), [("https://elsewhere.example/t", True), ("http://elsewhere.example/t", False)]
)
def test_an_anonymous_token_may_come_from_anywhere_encrypted(realm: str, fine: bool) -> None:
    problem = realm_problem(realm, "reg.io", plain_http_hosts=(), trusted_realms=(), with_credentials=False)
    assert (problem == "") is fine


def test_127_0_0_1_and_localhost_are_two_sites() -> None:
    assert not same_site("localhost", "127.0.0.1")
