"""What a registry asks for in WWW-Authenticate, and whether its token endpoint may have our credentials. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from itertools import pairwise
from urllib.parse import urlsplit

import msgspec

_PARAMETER = re.compile(r'([a-zA-Z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(r"(?:^|,)\s*(Basic|Bearer)(?=\s|,|$)", re.IGNORECASE)

# Suffixes under which strangers are neighbours: sharing one of them makes nobody the same site.
_SHARED = frozenset(
    {
        "azurecr.io", "azurewebsites.net", "cloudapp.net", "windows.net", "amazonaws.com", "on.aws", "cloudfront.net", "pkg.dev",
        "run.app", "appspot.com", "github.io", "gitlab.io", "vercel.app", "netlify.app", "herokuapp.com", "fly.dev", "ngrok.io",
        "duckdns.org", "nip.io", "sslip.io", "svc.cluster.local", "cluster.local",
    }
)  # fmt: skip
_SECOND_LEVEL = frozenset(
    {"ac", "co", "com", "edu", "gob", "gov", "gv", "ltd", "ne", "net", "nom", "or", "org", "plc", "sch"}
)


class Challenge(msgspec.Struct, frozen=True):
    """One authentication scheme with its parameters (RFC 9110 section 11.6.1; distribution's token specification)."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""


def parse(header: str) -> Challenge | None:
    """The challenge to answer: Bearer before Basic; None where neither is offered."""
    marks = [*_SCHEME.finditer(header), None]
    found: dict[str, Challenge] = {}
    for mark, following in pairwise(marks):
        assert mark is not None  # only the end mark is
        section = header[mark.end() : following.start() if following else len(header)]
        fields = {
            name.lower(): re.sub(r"\\(.)", r"\1", quoted) or bare for name, quoted, bare in _PARAMETER.findall(section)
        }
        scheme = mark.group(1).lower()
        found.setdefault(
            scheme, Challenge(scheme, fields.get("realm", ""), fields.get("service", ""), fields.get("scope", ""))
        )
    return found.get("bearer") or found.get("basic")


def realm_problem(
    realm: str,
    registry: str,
    *,
    plain_http_hosts: Collection[str],
    trusted_realms: Collection[str],
    with_credentials: bool,
) -> str:
    """Why this token endpoint must not be asked, in words; "" when it may.

    Encryption is required unless the endpoint's host is a plain one by setting. With credentials the endpoint must also be the
    registry's own host, its site, or named in `trusted_realms` (hosts).
    """
    url = urlsplit(realm)
    host = (url.hostname or "").lower()
    if url.scheme not in {"http", "https"} or not host or url.username or url.password:
        return f"the token endpoint {realm[:200]!r} is not a plain http(s) URL"
    if url.scheme == "http" and not _listed(url.netloc, host, plain_http_hosts):
        return f"the token endpoint {host} is not encrypted and is not one of the plain-http hosts"
    if not with_credentials:
        return ""
    registry_host = (urlsplit(f"//{registry}").hostname or "").lower()
    if same_site(host, registry_host) or _listed(url.netloc, host, trusted_realms):
        return ""
    return f"the registry {registry} wants its credentials sent to {host}, which is another site"


def _listed(netloc: str, host: str, allowed: Collection[str]) -> bool:
    return netloc.lower() in allowed or host in allowed


def same_site(one: str, other: str) -> bool:
    """Whether two host names belong to one owner, as far as names can tell: equal, or under one registrable domain."""
    if one == other:
        return True
    if _is_address(one) or _is_address(other):
        return False
    site = _site(one)
    return site != "" and site == _site(other)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _site(host: str) -> str:
    labels = host.rstrip(".").split(".")
    if len(labels) < 2 or any(host == suffix or host.endswith(f".{suffix}") for suffix in _SHARED):
        return ""
    depth = 3 if len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL else 2
    return ".".join(labels[-depth:]) if len(labels) >= depth else ""
