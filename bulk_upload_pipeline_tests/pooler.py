"""A pooler: its clients share one session of PostgreSQL, each for a transaction at a time, or have one each."""

from __future__ import annotations

import socket
import socketserver
import struct
from contextlib import closing, contextmanager, suppress
from threading import Lock, Thread

import sqlalchemy as sa

PROTOCOL = 3 << 16
TERMINATE, READY, KEY = b"X", b"Z", b"K"
IDLE = b"I"


@contextmanager
def transactions_pooled(url):
    """Yield the URL of a pooler in front of the server on whose socket `url` is."""
    with closing(_session(url)) as shared, _pooling(url, _OfTransactions) as (pooler, there):
        pooler.session, pooler.turn, pooler.greeting = shared, Lock(), _until_ready(shared)
        yield there


@contextmanager
def sessions_pooled(url):
    """The same of one that gives each of its clients a session."""
    with _pooling(url, _OfSessions) as (pooler, there):
        pooler.behind = url
        yield there


def _session(url):
    wanted = sa.make_url(url)
    server = socket.socket(socket.AF_UNIX)
    server.connect(f"{wanted.query['host']}/.s.PGSQL.{wanted.query['port']}")
    stated = ("user", wanted.username, "database", wanted.database)
    options = struct.pack("!i", PROTOCOL) + b"".join(f"{text}\0".encode() for text in stated) + b"\0"
    server.sendall(struct.pack("!i", len(options) + 4) + options)
    return server


@contextmanager
def _pooling(url, kind):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), kind) as pooler:
        pooler.daemon_threads, pooler.block_on_close = True, False
        Thread(target=pooler.serve_forever, args=(0.01,), daemon=True).start()
        there = {"sslmode": "disable", "gssencmode": "disable"}
        at = sa.make_url(url).set(host="127.0.0.1", port=pooler.server_address[1], query=there)
        yield pooler, at.render_as_string(hide_password=False)
        pooler.shutdown()


class _OfTransactions(socketserver.BaseRequestHandler):
    def handle(self):
        with suppress(EOFError):  # it went away without a word
            self._serve(self.server.session, self.server.turn, self.server.greeting)

    def _serve(self, session, turn, greeting):
        (length,) = struct.unpack("!i", _exactly(self.request, 4))
        _exactly(self.request, length - 4)
        self.request.sendall(greeting)
        kind, asked = _message(self.request)
        while kind != TERMINATE:
            with turn:
                answer = self._answer(session, asked)
                while answer[-1:] != IDLE:
                    self.request.sendall(answer)
                    answer = self._answer(session, _message(self.request)[1])
            self.request.sendall(answer)
            kind, asked = _message(self.request)

    def _answer(self, session, asked):
        session.sendall(asked)
        return _until_ready(session)


class _OfSessions(_OfTransactions):
    def handle(self):
        with suppress(EOFError), closing(_session(self.server.behind)) as own:
            self._serve(own, Lock(), _until_ready(own))


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
