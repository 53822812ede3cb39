"""webhook_url: what is taken and what is refused when a job is submitted. No name is resolved here."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from service.contracts.errors import BadField
from service.contracts.settings import Settings
from service.webhooks.address import LONGEST, check_url

SECRET = "x" * 32
PUBLIC = Settings(webhook_secret=SECRET)
INSIDE = Settings(webhook_secret=SECRET, webhook_networks="127.0.0.0/8,10.1.0.0/16,::1/128")


@pytest.fixture(autouse=True)
def _no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> None:
        raise AssertionError("a name was resolved")

    monkeypatch.setattr(socket, "getaddrinfo", asked)


TAKEN = {
    "https://example.com/hook": "https://example.com/hook",
    "HTTPS://EXAMPLE.com": "https://example.com",
    "https://example.com:8443/a%20b?c=d&e": "https://example.com:8443/a%20b?c=d&e",
    "https://xn--bcher-kva.example/": "https://xn--bcher-kva.example/",
    "https://8.8.8.8/": "https://8.8.8.8/",
    "https://[2606:4700:4700::1111]:8443/": "https://[2606:4700:4700::1111]:8443/",
    "https://example.com/@me": "https://example.com/@me",
    "https://a_b.example.com.:443/": "https://a_b.example.com./",
}


@pytest.mark.parametrize("url", TAKEN)
@pytest.mark.parametrize("settings", [PUBLIC, INSIDE], ids=["public", "inside"])
def test_what_is_taken(url: str, settings: Settings) -> None:
    assert check_url(url, settings) == TAKEN[url]
    assert check_url(TAKEN[url], settings) == TAKEN[url]


ALLOWED = [
    "http://10.1.2.3:8080/hook",
    "https://10.1.2.3/",
    "http://localhost:8080/",
    "http://[::1]:8080/",
    "http://receiver:8080/",
]


@pytest.mark.parametrize("url", ALLOWED)
def test_what_the_operator_allows(url: str) -> None:
    assert check_url(url, INSIDE) == url
    if "receiver" not in url:
        with pytest.raises(BadField):
            check_url(url, PUBLIC)


NOT_HTTPS, NOT_PUBLIC = "not an https address", "not a public one"
REFUSED = {
    "": NOT_HTTPS,
    "example.com/hook": NOT_HTTPS,
    "//example.com/hook": NOT_HTTPS,
    "https://": NOT_HTTPS,
    "https:///hook": NOT_HTTPS,
    "ftp://example.com/": NOT_HTTPS,
    "file:///etc/passwd": NOT_HTTPS,
    "javascript:alert(1)": NOT_HTTPS,
    "gopher://127.0.0.1:6379/_FLUSHALL": NOT_HTTPS,
    "http://example.com/": NOT_HTTPS,
    "http://8.8.8.8/": NOT_HTTPS,
    "https://user:secret@example.com/": "user name or password",
    "https://user@example.com/": "user name or password",
    "https://@example.com/": "user name or password",
    "https://example.com@127.0.0.1/": "user name or password",
    "https://example.com/#there": "#fragment",
    "https://example.com#@127.0.0.1/": "#fragment",
    "https://example.com:0/": "port",
    "https://example.com:22/": "port",
    "https://example.com:25/": "port",
    "https://example.com:65536/": "port",
    "https://example.com:a/": "not an address",
    "https://exam ple.com/": "spaces",
    "https://example.com/\r\nHost: inside": "spaces",
    "https://example.com/\x00": "spaces",
    "https://example.com\\@127.0.0.1/": "backslashes",
    "https://bücher.example/": "xn--",
    "https://１２７.0.0.1/": "xn--",
    "https://[::1": "not an address",
    "https://[v1.a]/": "not an address",
    "https://a..example/": "not a name",
    "https://-a.example/": "not a name",
    "https://a%2eexample/": "not a name",
    "https://" + "a" * 64 + ".example/": "not a name",
    "https://" + "a." * 130 + "example/": "not a name",
    "https://example.com/" + "a" * LONGEST: f"at most {LONGEST}",
    "https://127.0.0.1/": NOT_PUBLIC,
    "https://169.254.169.254/latest/meta-data/": NOT_PUBLIC,
    "https://10.0.0.1./": NOT_PUBLIC,
    "https://localhost/": NOT_PUBLIC,
    "https://LOCALHOST./": NOT_PUBLIC,
    "https://a.localhost/": NOT_PUBLIC,
    "https://[::1]/": NOT_PUBLIC,
    "https://[::]/": NOT_PUBLIC,
    "https://[fe80::1%25lo]/": NOT_PUBLIC,
    "https://[::ffff:127.0.0.1]/": NOT_PUBLIC,
    "https://[::ffff:a9fe:a9fe]/": NOT_PUBLIC,
    "https://[64:ff9b::7f00:1]/": NOT_PUBLIC,
    "https://[2002:7f00:1::]/": NOT_PUBLIC,
    "https://2130706433/": "host is a number",
    "https://017700000001/": "host is a number",
    "https://0x7f000001/": "host is a number",
    "https://0x7f.0.0.1/": "host is a number",
    "https://127.1/": "host is a number",
    "https://1.2.3.4.5/": "host is a number",
    "https://0/": "host is a number",
    "https://0177.0.0.1/": "not an address",
    "https://127.0.0.01/": "not an address",
    "https://%31%32%37.0.0.1/": "host is a number",
}


@pytest.mark.parametrize("url", REFUSED, ids=lambda url: ascii(url)[:40])
def test_what_is_refused(url: str) -> None:
    with pytest.raises(BadField, match=r"^webhook_url: it") as caught:
        check_url(url, PUBLIC)
    assert (REFUSED[url] in caught.value.detail, caught.value.field) == (True, "webhook_url"), caught.value.detail
    assert len(caught.value.detail) < 200, "it is not sent back"


def test_without_a_secret_none_is_taken() -> None:
    with pytest.raises(BadField, match="operator must set IMMUNIZE_WEBHOOK_SECRET"):
        check_url("https://example.com/hook", Settings())
