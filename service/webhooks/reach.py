"""Which IP addresses webhooks may go to. What a gateway sends must not reach into its own network."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

IP = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
UNICAST = IPv6Network("2000::/3")  # all of IPv6 that is given out; the rest is local, reserved or translated (NAT64)
INSIDE = tuple(
    ip_network(network)
    for network in (  # not everybody's, though `is_global` says so, at least in some versions of Python
        "192.0.0.0/24",  # protocols, and a cloud's metadata
        "192.88.99.0/24",  # relays to IPv6
        "168.63.129.16/32",  # Azure's inner services
        "2001::/23",  # protocols, and Teredo: IPv4 within
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: IPv4 within
        "3fff::/20",  # documentation
    )
)


def is_public(address: IP) -> bool:
    """Whether the address is one of the Internet's, and stands for no other by translation."""
    if isinstance(address, IPv6Address) and address not in UNICAST:
        return False
    inside = any(address in network for network in INSIDE)
    return address.is_global and not address.is_multicast and not address.is_reserved and not inside


def plain(address: IP) -> IP:
    """The address that is really met: IPv4 where it was written as IPv6, and without a zone."""
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


class Reach:
    """By https the Internet and the networks that the operator allows, by http only those."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self.networks = tuple(networks)

    def allows(self, address: IP, scheme: str) -> bool:
        met = plain(address)
        return any(met in network for network in self.networks) or (scheme == "https" and is_public(met))
