"""The bundle of the replicas' certificates: everybody's stays, one's own is there once, nothing grows without end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509

from workspace_controller.webhook_certificate import LIFETIME, LIMIT, bundle, issue

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOST = "workspace-controller-webhook.kaito-system.svc"


def made(replica: str, at: datetime = NOW) -> bytes:
    return issue(HOST, replica, at).certificate


def names(pem: bytes) -> list[str]:
    return [found.subject.rfc4514_string() for found in x509.load_pem_x509_certificates(pem)]


def test_replicas_stand_side_by_side() -> None:
    first, second = made("a"), made("b")
    both = bundle(bundle(b"", (first,), NOW), (second,), NOW)
    assert set(both.split(b"-----END")) == set((first + second).split(b"-----END"))


def test_what_stands_is_not_written_again() -> None:
    mine, other = made("a"), made("b")
    standing = other + mine
    assert bundle(standing, (mine,), NOW) is standing
    assert bundle(mine + other, (mine,), NOW) == mine + other


def test_a_restarted_replica_replaces_its_earlier_certificate() -> None:
    assert bundle(made("a") + (other := made("b")), (fresh := made("a"),), NOW) == other + fresh


def test_old_and_new_stand_together_while_one_renews() -> None:
    old, new = made("a"), made("a")
    assert names(bundle(old, (old, new), NOW)) == ["CN=a", "CN=a"]


def test_expired_certificates_and_junk_go() -> None:
    mine = made("a", NOW)
    assert bundle(made("b", NOW - LIFETIME - timedelta(seconds=1)) + made("c"), (mine,), NOW).count(b"BEGIN") == 2
    assert bundle(b"not a certificate", (mine,), NOW) == mine


def test_the_oldest_go_first_beyond_the_limit() -> None:
    standing = b"".join(made(f"r{n}", NOW + timedelta(seconds=n)) for n in range(LIMIT + 3))
    kept = names(bundle(standing, (made("me"),), NOW))
    assert len(kept) == LIMIT
    assert kept[0] == "CN=r4"
    assert kept[-1] == "CN=me"


def test_a_leaf_vouches_for_its_host_only_and_signs_nothing() -> None:
    for host, kind in ((HOST, x509.DNSName), ("127.0.0.1", x509.IPAddress)):
        (found,) = x509.load_pem_x509_certificates(issue(host, "r" * 80, NOW).certificate)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [str(name) for name in names.get_values_for_type(kind)] == [host]
        assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert found.not_valid_after_utc - NOW == LIFETIME
