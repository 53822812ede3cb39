"""Which IP addresses a gateway sends to."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from service.webhooks.reach import Reach, is_public

PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.215.14", "192.0.1.1", "2606:4700:4700::1111", "2001:4860:4860::8888", "2a00::1"]
PRIVATE = {
    "this host": ["0.0.0.0", "0.1.2.3", "::"],  # noqa: S104
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1", "fc00::1"],
    "link-local, and clouds' metadata": ["169.254.169.254", "169.254.170.2", "fe80::1", "fe80::1%lo", "fd00:ec2::254"],
    "shared": ["100.64.0.1", "100.100.100.200", "100.127.255.255"],
    "clouds' inner services": ["192.0.0.192", "168.63.129.16"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "broadcast and reserved": ["255.255.255.255", "240.0.0.1", "4000::1", "5f00::1"],
    "documentation and tests": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "2001:db8::1", "3fff::1"],
    "IPv4 in IPv6": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "::ffff:0:127.0.0.1"],
    "NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::10.0.0.1"],
    "6to4 and Teredo": ["2002:7f00:1::", "2002:808:808::1", "2001:0:7f00:1::1", "192.88.99.1"],
    "site-local": ["fec0::1"],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_the_internets(address: str) -> None:
    assert is_public(ip_address(address))
    assert Reach([]).allows(ip_address(address), "https")
    assert not Reach([]).allows(ip_address(address), "http")
    assert not Reach([ip_network("10.0.0.0/8"), ip_network("fd00::/8")]).allows(ip_address(address), "http")


@pytest.mark.parametrize("address", [address for each in PRIVATE.values() for address in each])
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_what_is_not(address: str, scheme: str) -> None:
    assert not is_public(ip_address(address))
    assert not Reach([]).allows(ip_address(address), scheme)
    assert not Reach([ip_network("10.99.0.0/16"), ip_network("fd99::/16")]).allows(ip_address(address), scheme)


def test_an_address_of_ipv4_is_public_however_it_is_written() -> None:
    assert Reach([]).allows(ip_address("::ffff:8.8.8.8"), "https")


@pytest.mark.parametrize("scheme", ["https", "http"])
@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "fd12::1", "fe80::1%lo"])
def test_what_the_operator_allows(address: str, scheme: str) -> None:
    reach = Reach([ip_network("10.1.0.0/16"), ip_network("fd12::/16"), ip_network("fe80::/10")])
    assert reach.allows(ip_address(address), scheme)
