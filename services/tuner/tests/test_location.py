from __future__ import annotations

import pytest

from tuner.data.location import Location, LocationError, Policy, parse, public, redirected

PIN = "a" * 64


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.1", False),
        ("172.16.5.4", False),
        ("192.168.1.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("168.63.129.16", False),
        ("100.64.0.1", False),
        ("100.100.100.200", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("::ffff:169.254.169.254", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:a9fe:a9fe::1", False),
        ("not an address", False),
    ],
)
def test_which_addresses_are_public(address: str, expected: bool) -> None:
    assert public(address) is expected


def test_a_pin_is_taken_off_the_url() -> None:
    found = parse(f"https://Data.example.org/a/rows.parquet?download=true#sha256={PIN.upper()}", Policy())
    assert (found.host, found.port, found.sha256) == ("data.example.org", 443, PIN)
    assert found.url == "https://Data.example.org/a/rows.parquet?download=true"
    assert (found.file_name, found.shown) == ("rows.parquet", "https://Data.example.org/a/rows.parquet")


@pytest.mark.parametrize(
    ("url", "policy", "words"),
    [
        ("file:///etc/passwd", Policy(), "not a web address"),
        ("ftp://example.org/x", Policy(), "not a web address"),
        ("https://", Policy(), "not a web address"),
        ("https://[::1/x", Policy(), "not a URL"),
        ("https://example.org:99999/x", Policy(), "not a URL"),
        ("http://example.org/x", Policy(), "not encrypted"),
        ("http://example.org:81/x", Policy(allowed_hosts=frozenset({("example.org", 80)})), "not encrypted"),
        ("https://me:secret@example.org/x", Policy(), "user name"),
        ("https://example.org/x#md5=1", Policy(), "not a pin"),
        ("https://example.org/x#sha256=abc", Policy(), "not a pin"),
    ],
)
def test_urls_that_are_refused(url: str, policy: Policy, words: str) -> None:
    with pytest.raises(LocationError, match=words) as caught:
        parse(url, policy)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/a/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "passwd"),
        ("https://h/..", "data"),
        ("https://h/", "data"),
        ("https://h/a b;c.csv", "a_b_c.csv"),
    ],
)
def test_file_names_are_safe(url: str, name: str) -> None:
    found = parse(url, Policy()).file_name
    assert "/" not in found
    assert found.endswith(name)
    assert not found.startswith(".")


def at(url: str) -> Location:
    return parse(url, Policy(plain_http=True))


def test_a_redirect_keeps_the_pin_and_never_leaves_encryption() -> None:
    origin = at(f"https://example.org/a#sha256={PIN}")
    landed = redirected(origin, "/b?x=1#y", Policy())
    assert (landed.url, landed.sha256) == ("https://example.org/b?x=1", PIN)
    with pytest.raises(LocationError, match="plain http"):
        redirected(origin, "http://example.org/b", Policy(plain_http=True))
