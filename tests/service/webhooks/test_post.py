"""One POST to a stranger's address: which socket it goes to, whatever the name servers say."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import Callable
from email.utils import format_datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.webhooks.post import NOWHERE, Answer, Poster
from service.webhooks.reach import IP, Reach
from tests.service.webhooks.receiver import Receiver, receiver

LOOPBACK = Reach([ip_network("127.0.0.0/8")])
PUBLIC = Reach([])


class Names:
    """A name server that says each time what comes next in its list."""

    def __init__(self, *said: list[str] | Exception) -> None:
        self.said, self.asked = list(said), []  # type: ignore[var-annotated]

    async def __call__(self, host: str, port: int) -> list[IP]:
        self.asked.append((host, port))
        found = self.said.pop(0)
        if isinstance(found, Exception):
            raise found
        return [ip_address(each) for each in found]


class Wire(httpx2.AsyncBaseTransport):
    """Takes down what would be sent, and where to."""

    def __init__(self, *unreachable: str, headers: dict[str, str] | None = None) -> None:
        self.sent: list[httpx2.Request] = []
        self._unreachable, self._headers = unreachable, headers

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.sent.append(request)
        if request.url.host in self._unreachable:
            raise httpx2.ConnectError("no route to host")
        return httpx2.Response(204, headers=self._headers, stream=httpx2.ByteStream(b""))


def post(poster: Poster, url: str = "https://hooks.example.com:8443/a?b=c") -> Answer:
    return asyncio.run(poster.post(url, {"webhook-id": "msg_1"}, b"{}"))


def test_the_name_is_asked_for_once_and_the_connection_goes_to_what_was_checked() -> None:
    names, wire = Names(["93.184.215.14"]), Wire()
    assert post(Poster(PUBLIC, resolve=names, transport=wire)) == Answer(status=204)
    (sent,) = wire.sent
    assert names.asked == [("hooks.example.com", 8443)]
    assert (sent.url.host, sent.url.port, sent.url.raw_path) == ("93.184.215.14", 8443, b"/a?b=c")
    assert sent.headers["host"] == "hooks.example.com:8443"
    assert sent.extensions["sni_hostname"] == "hooks.example.com"
    assert (sent.method, sent.headers["webhook-id"], sent.headers["content-type"]) == (
        "POST",
        "msg_1",
        "application/json",
    )


def test_a_name_that_turns_to_loopback_is_refused() -> None:
    names, wire = Names(["93.184.215.14"], ["127.0.0.1"]), Wire()
    poster = Poster(PUBLIC, resolve=names, transport=wire)
    assert post(poster).status == 204
    assert post(poster) == Answer(refused=True, error=NOWHERE)
    assert len(wire.sent) == 1


@pytest.mark.parametrize(
    "found",
    [
        ["127.0.0.1"],
        ["93.184.215.14", "127.0.0.1"],
        ["::1"],
        ["::ffff:169.254.169.254"],
        ["64:ff9b::a9fe:a9fe"],
        ["2002:7f00:1::"],
        ["fe80::1%lo"],
        ["0.0.0.0"],  # noqa: S104
        [],
    ],
    ids=str,
)
def test_all_of_a_names_addresses_must_be_public(found: list[str]) -> None:
    wire = Wire()
    assert post(Poster(PUBLIC, resolve=Names(found), transport=wire)) == Answer(refused=True, error=NOWHERE)
    assert wire.sent == []


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0x7f.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "localhost"]
)
def test_however_loopback_is_written_the_system_knows_it(host: str) -> None:
    """As these are refused when a job is submitted, it takes an older record to have one."""
    wire = Wire()
    poster = Poster(PUBLIC, transport=wire)
    assert post(poster, f"https://{host}/").error == NOWHERE
    assert wire.sent == []
    poster.close()


@pytest.mark.parametrize("why", [socket.gaierror("no such name"), UnicodeError("label too long")], ids=str)
def test_a_name_that_does_not_resolve_sounds_like_one_that_is_inside(why: Exception) -> None:
    assert post(Poster(PUBLIC, resolve=Names(why))) == Answer(error=NOWHERE)


def test_http_goes_only_where_the_operator_allows() -> None:
    wire = Wire()
    found = ["127.0.0.1"], ["93.184.215.14"], ["127.0.0.1", "93.184.215.14"]
    poster = Poster(LOOPBACK, resolve=Names(*found), transport=wire)
    assert [post(poster, "http://hooks.example.com/").status for _ in found] == [204, None, None]
    assert [sent.url.host for sent in wire.sent] == ["127.0.0.1"]


def test_the_next_address_is_tried_where_one_cannot_be_reached() -> None:
    found = ["2606:4700::1", "2606:4700::2", "2606:4700::3", "2606:4700::4", "93.184.215.14", "93.184.215.15"]
    wire = Wire(*found[:4])
    assert post(Poster(PUBLIC, resolve=Names(found), transport=wire)).status == 204
    assert [sent.url.host for sent in wire.sent] == ["2606:4700::1", "93.184.215.14"]
    wire = Wire(*found)
    assert post(Poster(PUBLIC, resolve=Names(found), transport=wire)) == Answer(error="no connection could be made")
    assert len(wire.sent) == 4


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("9" * 5000, 999_999_999.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("tomorrow", 86_400.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_when_a_receiver_wants_to_be_asked_again(said: str, expected: float | None) -> None:
    if said == "tomorrow":
        said = format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1), usegmt=True)
    wire = Wire(headers={"retry-after": said})
    answer = post(Poster(PUBLIC, resolve=Names(["93.184.215.14"]), transport=wire))
    assert answer.retry_after == (None if expected is None else pytest.approx(expected, abs=30))


def test_a_name_server_that_does_not_answer() -> None:
    async def sleeps(host: str, port: int) -> list[IP]:
        await asyncio.sleep(20)
        return []

    assert post(Poster(PUBLIC, resolve=sleeps, total=0.05)).error == "there was no answer within 0.05 seconds"


def test_proxies_of_the_environment_are_not_asked(
    hook: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with receiver() as proxy:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login somebody password secret\n")
        monkeypatch.setenv("NETRC", str(netrc))
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert post(Poster(LOOPBACK), hook.url).status == 204
        assert proxy.got == []
    assert "authorization" not in hook.got[0].headers


def test_nothing_of_one_delivery_is_met_by_the_next(hook: Receiver) -> None:
    poster = Poster(LOOPBACK)
    hook.answers = [(200, {"set-cookie": "a=b; Path=/"}, b"fine")]
    assert [post(poster, hook.url).status for _ in range(2)] == [200, 204]
    assert all("cookie" not in got.headers for got in hook.got)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Key and certificate, in one file, of hooks.example.com."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hooks.example.com")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example.com")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


def test_tls_is_checked_against_the_name_though_the_address_is_pinned(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    asked: list[Any] = []
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    here: Callable[[], Names] = lambda: Names(["127.0.0.1"])  # noqa: E731
    with receiver(context) as hook:
        right = hook.url.replace("127.0.0.1", "hooks.example.com")
        assert "certificate is not valid" in (post(Poster(LOOPBACK, resolve=here()), right).error or "")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # an authority of the operator's own
        assert post(Poster(LOOPBACK, resolve=here()), right).status == 204
        wrong = hook.url.replace("127.0.0.1", "other.example.com")
        assert "Hostname mismatch" in (post(Poster(LOOPBACK, resolve=here()), wrong).error or "")
        plain = post(Poster(LOOPBACK, resolve=here()), right.replace("https", "http"))
        assert plain.status is None
    assert asked == ["hooks.example.com", "hooks.example.com", "other.example.com"]
    assert [got.headers["host"].partition(":")[0] for got in hook.got] == ["hooks.example.com"]


def test_an_address_that_speaks_no_tls(hook: Receiver) -> None:
    answer = post(Poster(LOOPBACK), hook.url.replace("http", "https"))
    assert answer.error == "it does not speak TLS as we do"
    assert hook.got == []
