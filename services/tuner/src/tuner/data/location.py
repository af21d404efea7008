"""Where a file of training data is: a URL with an optional pin, and which addresses may be asked for it. Pure."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import msgspec

_PIN: Final = re.compile(r"sha256=([0-9a-f]{64})", re.IGNORECASE)
_NAT64: Final = (IPv6Network("64:ff9b::/96"),)
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_PLATFORM: Final = (
    ip_network("168.63.129.16/32"),  # Azure's wire server: a public address that answers only inside
    ip_network("100.100.100.200/32"),
    ip_network("192.88.99.0/24"),
)
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}


class LocationError(ValueError):
    """The URL cannot be used. `str()` says why and what to write instead."""


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """One URL, ready to be asked."""

    scheme: str
    host: str
    port: int
    url: str
    """Without the fragment."""
    sha256: str = ""
    """Hex digest that the content must have; "" for any."""

    @property
    def shown(self) -> str:
        """The URL for logs and reports: without its query, which may hold a signature."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))

    @property
    def file_name(self) -> str:
        """A plain name for the file: the last part of the path, made safe."""
        last = unquote(urlsplit(self.url).path.rstrip("/").rpartition("/")[2])
        return _UNSAFE.sub("_", last).lstrip(".")[-120:] or "data"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator of the cluster allows; a Workspace cannot change it."""

    plain_http: bool = False
    """Whether http:// is allowed for public hosts."""
    allowed_hosts: frozenset[tuple[str, int]] = frozenset()
    """Exact (host, port) pairs that may be asked whatever their address, over http too."""


def parse(text: str, policy: Policy) -> Location:
    """Read a URL as users write it, `#sha256=HEX` included. Raises LocationError."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise LocationError(f"{_hidden(text)} is not a URL: {error}") from error
    host = (parts.hostname or "").rstrip(".").lower()
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise LocationError(f"{_hidden(text)} is not a web address: write https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        raise LocationError(f"the URL of {host} holds a user name: credentials do not belong into a Workspace")
    port = port or _DEFAULT_PORTS[parts.scheme]
    if parts.scheme == "http" and not policy.plain_http and (host, port) not in policy.allowed_hosts:
        raise LocationError(
            f"{_hidden(text)} is not encrypted: write https://, or let the operator allow {host}:{port}"
        )
    pin = ""
    if parts.fragment:
        match = _PIN.fullmatch(parts.fragment)
        if match is None:
            raise LocationError(f"#{parts.fragment[:80]} is not a pin: write #sha256= and 64 hexadecimal digits")
        pin = match[1].lower()
    url = urlunsplit((parts.scheme, parts.netloc, parts.path or "/", parts.query, ""))
    return Location(scheme=parts.scheme, host=host, port=port, url=url, sha256=pin)


def redirected(origin: Location, target: str, policy: Policy) -> Location:
    """Return where a redirect leads, with the pin of the origin. Raises LocationError."""
    try:
        joined = urljoin(origin.url, target.partition("#")[0])
    except ValueError as error:
        raise LocationError(f"{origin.shown} redirects to {_hidden(target)}, which is not a URL: {error}") from error
    landed = parse(joined, policy)
    if origin.scheme == "https" and landed.scheme == "http":
        raise LocationError(f"{origin.shown} redirects to plain http ({landed.host})")
    return msgspec.structs.replace(landed, sha256=origin.sha256)


def allowed(host: str, port: int, policy: Policy) -> bool:
    """Whether the operator named exactly this host and port."""
    return (host.rstrip(".").lower(), port) in policy.allowed_hosts


def literal(host: str) -> str:
    """Return the IP address if the host is one in any notation that a resolver would take, else ""."""
    try:
        return str(ip_address(host))
    except ValueError:
        return ""


def public(address: str) -> bool:
    """Whether an IP address is one of the public internet: not private, local, metadata, multicast or reserved."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    inner = _embedded(found)
    if inner is not None:
        return public(str(inner))
    if found.is_multicast or found.is_unspecified or found.is_reserved:
        return False
    return found.is_global and not any(found.version == net.version and found in net for net in _PLATFORM)


def _embedded(found: IPv4Address | IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to, where it does."""
    if isinstance(found, IPv4Address):
        return None
    if found.ipv4_mapped is not None:
        return found.ipv4_mapped
    if found.sixtofour is not None:
        return found.sixtofour
    if found.teredo is not None:
        return found.teredo[1]
    if any(found in net for net in _NAT64):
        return IPv4Address(int(found) & 0xFFFFFFFF)
    return None


def _hidden(text: str) -> str:
    """The start of a URL that may hold secrets in its query."""
    return text.strip().partition("?")[0].partition("#")[0].rpartition("@")[2][:200] or "the URL"
