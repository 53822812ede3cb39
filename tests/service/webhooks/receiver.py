"""A receiver of webhooks on loopback that answers what it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from service.listen import address, listen


@dataclass(frozen=True)
class Got:
    path: str
    headers: dict[str, str]  # names in small letters
    body: bytes


@dataclass
class Receiver:
    """`answers` are given in turn, and after them 204: a status, or (status, headers, body), or a function of the raw
    socket that does what it likes."""

    url: str
    got: list[Got] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)


@contextmanager
def receiver(tls: Any = None) -> Iterator[Receiver]:
    """One that listens, with `tls` (an ssl.SSLContext) by https."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with lock:
                here.got.append(Got(self.path, {name.lower(): text for name, text in self.headers.items()}, body))
                answer = here.answers.pop(0) if here.answers else 204
            if callable(answer):
                answer(self.connection)
                self.close_connection = True
                return
            status, headers, text = (answer, {}, b"") if isinstance(answer, int) else answer
            self.send_response(status)
            for name, value in {"content-length": str(len(text)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # connections come faster than a thread begins

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Who hangs up on us is none of the test's business."""

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        here = Receiver(f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}/hook?a=1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield here
        finally:
            server.shutdown()
            thread.join(timeout=10)


def nobody() -> str:
    """An address of loopback where nobody listens."""
    with listen("127.0.0.1", 0) as listener:
        return f"{address(listener)}/hook"


def hangs_up(connection: Any) -> None:
    connection.close()


def waits(over: threading.Event) -> Callable[[Any], None]:
    """Says nothing until then."""
    return lambda connection: (over.wait(20), connection.close())[1]
