"""A pooler of transactions: all its clients share one session of PostgreSQL, each for a transaction at a time."""

from __future__ import annotations

import socket
import socketserver
import struct
from contextlib import contextmanager, suppress
from threading import Lock, Thread

import sqlalchemy as sa

PROTOCOL = 3 << 16
TERMINATE, READY, KEY = b"X", b"Z", b"K"
IDLE = b"I"


@contextmanager
def transactions_pooled(url):
    """Yield the URL of a pooler in front of the server on whose socket `url` is."""
    wanted = sa.make_url(url)
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(f"{wanted.query['host']}/.s.PGSQL.{wanted.query['port']}")
        stated = ("user", wanted.username, "database", wanted.database)
        options = struct.pack("!i", PROTOCOL) + b"".join(f"{text}\0".encode() for text in stated) + b"\0"
        server.sendall(struct.pack("!i", len(options) + 4) + options)
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Client) as pooler:
            pooler.daemon_threads, pooler.block_on_close = True, False
            pooler.session, pooler.turn = server, Lock()
            pooler.greeting = _until_ready(server)
            Thread(target=pooler.serve_forever, args=(0.01,), daemon=True).start()
            there = {"sslmode": "disable", "gssencmode": "disable"}
            at = wanted.set(host="127.0.0.1", port=pooler.server_address[1], query=there)
            yield at.render_as_string(hide_password=False)
            pooler.shutdown()


class _Client(socketserver.BaseRequestHandler):
    def handle(self):
        with suppress(EOFError):  # it went away without a word
            self._serve()

    def _serve(self):
        (length,) = struct.unpack("!i", _exactly(self.request, 4))
        _exactly(self.request, length - 4)
        self.request.sendall(self.server.greeting)
        kind, asked = _message(self.request)
        while kind != TERMINATE:
            with self.server.turn:
                answer = self._answer(asked)
                while answer[-1:] != IDLE:
                    self.request.sendall(answer)
                    answer = self._answer(_message(self.request)[1])
            self.request.sendall(answer)
            kind, asked = _message(self.request)

    def _answer(self, asked):
        self.server.session.sendall(asked)
        return _until_ready(self.server.session)


def _until_ready(server):
    answer, kind = b"", b""
    while kind != READY:
        kind, message = _message(server)
        # Whom a client would cancel is for the pooler to know.
        answer += KEY + struct.pack("!iii", 12, 1, 1) if kind == KEY else message
    return answer


def _message(peer):
    kind = _exactly(peer, 1)
    length = _exactly(peer, 4)
    return kind, kind + length + _exactly(peer, struct.unpack("!i", length)[0] - 4)


def _exactly(peer, size):
    read = b""
    while len(read) < size:
        more = peer.recv(size - len(read))
        if not more:
            raise EOFError
        read += more
    return read
