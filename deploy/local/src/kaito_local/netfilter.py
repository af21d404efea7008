"""iptables rules: ours, and those of the kube-proxy that we ran, made and unmade by the names of chains."""

import shlex
from collections.abc import Mapping, Sequence

from kaito_local.command import run, succeeds
from kaito_local.errors import CommandError

PARENTS = {
    "KAITO-FORWARD": ("filter", "FORWARD"),
    "KAITO-INPUT": ("filter", "INPUT"),
    "KAITO-NAT": ("nat", "POSTROUTING"),
}
"""Our chains, with the table and the built-in chain that each is called from."""

_FAMILIES = ("iptables", "ip6tables")
_TABLES = ("filter", "nat", "mangle")
_PREFIXES = ("KAITO-", "KUBE-")


async def install(rules: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Fills our chains with these rules and calls them before everybody else's. Idempotent."""
    for chain, (table, parent) in PARENTS.items():
        if not await chain_exists(table, chain):
            await _iptables(table, "-N", chain)
        await _iptables(table, "-F", chain)
        for rule in rules[chain]:
            await _iptables(table, "-A", chain, *rule)
        if not await succeeds("iptables", "-w", "-t", table, "-C", parent, "-j", chain):
            await _iptables(table, "-I", parent, "1", "-j", chain)


async def chain_exists(table: str, chain: str) -> bool:
    """Whether that chain is there."""
    return await succeeds("iptables", "-w", "-t", table, "-n", "-L", chain)


async def remove_all() -> None:
    """Removes our chains and all of kube-proxy's: `kube-proxy --cleanup` itself leaves KUBE-FIREWALL behind."""
    for family in _FAMILIES:
        for table in _TABLES:
            rules = await _listed(family, table)
            chains = [words[1] for words in rules if words[0] == "-N" and words[1].startswith(_PREFIXES)]
            for words in rules:
                if words[0] == "-A" and words[1] not in chains and words[-1].startswith(_PREFIXES):
                    await run(family, "-w", "-t", table, "-D", *words[1:])
            for chain in chains:
                await run(family, "-w", "-t", table, "-F", chain)
            for chain in chains:
                await run(family, "-w", "-t", table, "-X", chain)


async def leftovers() -> list[str]:
    """The rules and chains of ours or of a kube-proxy that are there."""
    return [
        f"{family} -t {table} {shlex.join(words)}"
        for family in _FAMILIES
        for table in _TABLES
        for words in await _listed(family, table)
        if any(word.startswith(_PREFIXES) for word in words)
    ]


async def _listed(family: str, table: str) -> list[list[str]]:
    try:
        return [shlex.split(line) for line in (await run(family, "-w", "-t", table, "-S")).splitlines()]
    except CommandError:
        return []  # a kernel without that table, or without IPv6, has no rules in it


async def _iptables(table: str, *words: str) -> None:
    await run("iptables", "-w", "-t", table, *words)
