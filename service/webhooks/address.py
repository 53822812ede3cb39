"""What the address of a webhook must look like. Which IP addresses it stands for is checked each time something is sent
(post.py), as that may change in between."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, ip_address

import httpx2

from service.contracts.errors import BadField
from service.contracts.settings import Settings
from service.webhooks.reach import IP, Reach, is_public, plain

LONGEST = 2000
PORTS = "443, 80 or 1024 to 65535"
RIGHT = "send one like https://example.com/hook"


def check_url(text: str, settings: Settings) -> str:
    """The address, in its plain form. Raises BadField."""
    if not settings.webhook_secrets:
        raise _bad("this deployment signs no webhooks; its operator must set IMMUNIZE_WEBHOOK_SECRET")
    if len(text) > LONGEST:
        raise _bad(f"it has {len(text)} letters; at most {LONGEST} are taken")
    if not re.fullmatch(r"[!-~]*", text) or "\\" in text:
        raise _bad("it has spaces, backslashes or letters beyond ASCII; write them as %20, and a name as xn--...")
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError):
        raise _bad(f"it is not an address; {RIGHT}") from None
    if url.scheme not in ("https", "http") or not url.raw_host:
        raise _bad(f"it is not an https address; {RIGHT}")
    if "@" in re.split(r"[/?#]", text.partition("://")[2])[0]:
        raise _bad("it has a user name or password; send it without, every webhook is signed")
    if "#" in text:
        raise _bad("it has a #fragment, which is never sent; leave it out")
    if url.port is not None and url.port not in (80, 443) and not 1024 <= url.port <= 65535:
        raise _bad(f"its port cannot be used; those that can are {PORTS}")
    reach = Reach(settings.webhook_networks)
    literal = _literal(url.raw_host.decode("ascii").removesuffix("."))
    if url.scheme == "http" and (not reach.networks or (literal is not None and is_public(plain(literal)))):
        raise _bad(f"it is not an https address; {RIGHT}")
    if literal is not None and not reach.allows(literal, url.scheme):
        raise _bad("its host is not a public one; send one that can be reached from everywhere")
    return str(url)


def _literal(host: str) -> IP | None:
    """The host's IP address where it is one, or surely stands for one."""
    if ":" in host or re.fullmatch(r"(.*\.)?(\d+|0x[0-9a-f]*)", host):  # what a resolver takes for a number
        try:
            return ip_address(host)
        except ValueError:
            raise _bad("its host is a number, but no IP address as one writes them; send a name") from None
    if len(host) > 253 or not re.fullmatch(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", host):
        raise _bad(f"its host is not a name; {RIGHT}")
    return IPv4Address("127.0.0.1") if re.fullmatch(r"(.*\.)?localhost", host) else None


def _bad(why: str) -> BadField:
    return BadField(f"webhook_url: {why}", field="webhook_url")
