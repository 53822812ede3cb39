"""Listening: what asyncio must know of a socket."""

from __future__ import annotations

import socket

from service.listen import address, listen


def test_asyncio_sees_that_it_is_tcp_and_sends_small_answers_at_once() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
        assert address(listener).startswith("http://127.0.0.1:")
