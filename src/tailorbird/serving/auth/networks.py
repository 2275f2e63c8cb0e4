"""Addresses of clients, and the networks whose forwarded addresses count."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from tailorbird.errors import ConfigError

UNKNOWN_ADDRESS = "unknown"  # callers without a known address share one limit


class Networks:
    """Addresses and networks, such as `10.0.0.7`, `10.0.0.0/8` and `fd00::/8`.

    Raises:
        ConfigError: one of the texts is neither.

    >>> "10.1.2.3" in Networks(["10.0.0.0/8"]), "11.1.2.3" in Networks(["10.0.0.0/8"])
    (True, False)
    """

    def __init__(self, texts: Iterable[str] = (), *, where: str = "serve.trusted_proxies") -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        for network_text in texts:
            try:
                self._networks.append(ip_network(network_text))
            except ValueError as error:
                fix = "write it as 10.0.0.7 or 10.0.0.0/8, without bits beyond the prefix"
                raise ConfigError(
                    f"{network_text!r} is no address and no network: {error}", where=where, fix=fix
                ) from None

    def __contains__(self, address: str | IPv4Address | IPv6Address) -> bool:
        ip = _parse_ip(address) if isinstance(address, str) else address
        return any(ip in network for network in self._networks if ip is not None)


def client_address(peer: str, forwarded_for: str, trusted_proxies: Networks) -> str:
    """Return the address of the caller: the peer, or the last hop that a trusted proxy did not add
    itself.

    An IPv6 address is reduced to its /64. Where a proxy names no address ("unknown"), the request
    counts for that proxy.

    Args:
        forwarded_for: all lines of `X-Forwarded-For` in their order, joined by commas; some proxies
            extend the last line, others add one.
    """
    caller_ip = _parse_ip(peer)
    if caller_ip is None:
        return UNKNOWN_ADDRESS
    hops = [hop for hop in map(str.strip, forwarded_for.split(",")) if hop]
    while hops and caller_ip in trusted_proxies and (hop_ip := _parse_ip(hops.pop())) is not None:
        caller_ip = hop_ip
    return (
        str(caller_ip)
        if isinstance(caller_ip, IPv4Address)
        else f"{IPv6Address(int(caller_ip) >> 64 << 64)}/64"
    )


def is_public_address(peer: str) -> bool:
    """Return whether an address is globally routable, and not of a private network."""
    ip = _parse_ip(peer)
    return ip is not None and ip.is_global


def _parse_ip(hop: str) -> IPv4Address | IPv6Address | None:
    """Parse the address of a hop, without port or zone: `203.0.113.8:51234`, `[2001:db8::1]:51234`,
    `fe80::1%eth0`.
    """
    text = hop.strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
