"""Who may use the UI: an ASGI layer around a web application that by itself lets everybody do everything.

Dagster's webserver has no passwords and executes what any web page asks it to: a mutation in the address of an
image, a form sent to `/report_asset_materialization`, a name that an attacker's DNS points at 127.0.0.1. So all that
is not known to be needed is refused: other names than ours (`Host`), requests that another site makes (`Origin`,
`Sec-Fetch-Site`), and everything that changes something but JSON posted to `/graphql`. With a password, nothing is
shown before it is given.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import html
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("127.0.0.1", "localhost", "::1")
GRAPHQL, LOGIN = "/graphql", "/login"
WITHOUT_PASSWORD = frozenset({"/server_info"})
"""Versions only: what a container's health check asks for."""
SESSION_SECONDS = 12 * 3600
SECONDS_AFTER_A_WRONG_PASSWORD = 1.0
MOST_WRONG_AT_ONCE = 10
"""While so many wrong passwords wait for their answer, no further one is looked at."""
LONGEST_LOGIN = 4_096
_BUSY = "Too many wrong passwords were tried at once. Try again in some seconds."
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_HEADERS = {
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer instead of what was asked for."""

    status: int
    words: str


def refusal(connection: HTTPConnection, hosts: Iterable[str]) -> Refusal | None:
    """Return why a request is refused, whoever makes it; None when it is one that a browser of ours makes.

    Args:
        connection: An HTTP request or the beginning of a websocket.
        hosts: Names under which the UI answers, without ports.
    """
    return _foreign_name(connection, hosts) or _foreign_page(connection) or _unneeded(connection)


def _foreign_name(connection: HTTPConnection, hosts: Iterable[str]) -> Refusal | None:
    # A page of evil.example whose name is pointed at 127.0.0.1 is of the same origin for its browser.
    stated = connection.headers.getlist("host")
    if len(stated) == 1 and _address(f"//{stated[0]}")[0] in hosts:
        return None
    return Refusal(
        403,
        f"This UI does not answer to the name {', '.join(stated)[:200]!r}. If the name is yours, add it to "
        "BULK_UPLOAD_UI_HOSTS.",
    )


def _foreign_page(connection: HTTPConnection) -> Refusal | None:
    headers = connection.headers
    theirs = Refusal(403, "Another site's page asked for this, so it was not done.")
    origins = headers.getlist("origin")
    ours = _address(f"//{headers['host']}", connection.url.scheme)
    if len(origins) > 1 or (origins and _address(origins[0], connection.url.scheme) != ours):
        return theirs
    from_elsewhere = headers.get("sec-fetch-site", "none") in ("cross-site", "same-site")
    by_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    reads = connection.scope["type"] == "http" and connection.scope["method"] in ("GET", "HEAD")
    return theirs if from_elsewhere and not (by_link and reads) else None


def _unneeded(connection: HTTPConnection) -> Refusal | None:
    path = connection.scope["path"]
    if path.startswith("/report_"):
        return Refusal(403, "Events are written by runs only.")
    if path == GRAPHQL and "query" in connection.query_params:
        return Refusal(405, "A query comes as posted JSON, never in an address.")
    if connection.scope["type"] == "websocket":
        return None if path == GRAPHQL else Refusal(403, "There is no such websocket.")
    method = connection.scope["method"]
    media_type = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    posted = (path == GRAPHQL and media_type == "application/json") or path == LOGIN
    if method in ("GET", "HEAD") or (method == "POST" and posted):
        return None
    return Refusal(405, "The UI has no use for such a request.")


def _address(text: str, scheme: str = "http") -> tuple[str, int | None]:
    """Return name and port of an origin or, after two slashes, of a host; ("", None) when it is neither."""
    try:
        parts = urlsplit(text)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme or scheme)
    except ValueError:
        return "", None
    plain = not (parts.path or parts.query or parts.fragment or parts.username or parts.password)
    return (parts.hostname or "", port) if plain else ("", None)


@dataclass(frozen=True)
class Lock:
    """A password, and the sessions that it opens.

    A session is its expiry signed with a key made from the password: nothing is stored, a restart logs nobody
    out, and another password ends all sessions.

    Attributes:
        role: Who has the password. Cookies do not tell ports apart, so each role's has a name of its own.
    """

    password: str
    role: str

    @property
    def cookie(self) -> str:
        """Name of the cookie."""
        return f"bulk_upload_{self.role}"

    def opens(self, password: str) -> bool:
        """Tell whether this is the password, in a time that says nothing about it."""
        return hmac.compare_digest(_digest(password), _digest(self.password))

    def opens_by_header(self, token: str) -> bool:
        """Tell whether a header states the password: read as Latin-1, often meant as UTF-8, without outer blanks."""
        meant = {token, token.encode("latin-1").decode("utf-8", "surrogateescape")}
        wanted = self.password.strip()
        return bool(wanted) and any(hmac.compare_digest(_digest(each), _digest(wanted)) for each in meant)

    def session(self, now: float) -> str:
        """Return the cookie's value for a session that begins now."""
        return self._signed(int(now) + SESSION_SECONDS)

    def knows(self, session: str, now: float) -> bool:
        """Tell whether a cookie's value is a session of ours that has not expired."""
        expiry = session.partition(".")[0]
        valid = expiry.isascii() and expiry.isdecimal() and len(expiry) < 12 and int(expiry) > now
        return valid and hmac.compare_digest(session.encode(), self._signed(int(expiry)).encode())

    def _signed(self, expiry: int) -> str:
        return f"{expiry}.{hmac.new(self._key, str(expiry).encode(), 'sha256').hexdigest()}"

    @cached_property
    def _key(self) -> bytes:
        salt = f"bulk upload {self.role}".encode()
        return hashlib.scrypt(self.password.encode("utf-8", "surrogateescape"), salt=salt, n=2**14, r=8, p=1)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class Guard:
    """The layer: refuses what nobody needs, asks for the password, and hands on the rest."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str], lock: Lock | None = None) -> None:
        self._app, self._lock = app, lock
        # A name may have been set as an address bar shows it, with its port.
        named = (_address(f"//{name}")[0] or name for name in hosts)
        self._hosts = frozenset(name.lower() for name in (*LOCAL, *named))
        self._one_at_a_time, self._wrong = asyncio.Lock(), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        connection = HTTPConnection(scope)
        answer = await self._answer(connection, receive)
        if answer is None:
            await self._app(scope, receive, _with_headers(send) if scope["type"] == "http" else send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await answer(scope, receive, _with_headers(send))

    async def _answer(self, connection: HTTPConnection, receive: Receive) -> Response | None:
        """Return what is answered instead of the application; None when it may answer."""
        if refused := refusal(connection, self._hosts):
            return PlainTextResponse(refused.words + "\n", refused.status)
        if self._lock is None or connection.scope["path"] in WITHOUT_PASSWORD:
            return None
        if connection.scope["path"] == LOGIN and connection.scope["type"] == "http":
            return await self._log_in(Request(connection.scope, receive), self._lock)
        token = _bearer(connection)
        if token is not None and self._is_busy:
            return PlainTextResponse(_BUSY + "\n", 429)
        if await self._is_known(connection, token, self._lock):
            return None
        if "text/html" in connection.headers.get("accept", ""):
            return _login_page(connection.scope["path"], 401)
        return PlainTextResponse("Log in first, or send the password as a bearer token.\n", 401)

    async def _is_known(self, connection: HTTPConnection, token: str | None, lock: Lock) -> bool:
        # A browser sends no bearer token by itself, so programs may: it cannot be misused by a page.
        if token is not None:
            return await self._judged(right=lock.opens_by_header(token))
        return lock.knows(connection.cookies.get(lock.cookie, ""), time.time())

    @property
    def _is_busy(self) -> bool:
        # Nor would a right one be: who asks often could tell it by its quick answer, and leave the wrong ones waiting.
        return self._wrong >= MOST_WRONG_AT_ONCE

    async def _judged(self, *, right: bool) -> bool:
        """Return whether a password was right; of wrong ones one a second, however many are asked at a time."""
        if right:
            return True
        self._wrong += 1
        try:
            async with self._one_at_a_time:
                await asyncio.sleep(SECONDS_AFTER_A_WRONG_PASSWORD)
        finally:
            self._wrong -= 1
        return False

    async def _log_in(self, request: Request, lock: Lock) -> Response:
        if request.method != "POST":
            return _login_page("/", 200)
        form = parse_qs((await _beginning(request, LONGEST_LOGIN)).decode("utf-8", "replace"))
        wanted = form.get("next", ["/"])[0]
        if self._is_busy:
            return _login_page(wanted, 429, _BUSY)
        if not await self._judged(right=lock.opens(form.get("password", [""])[0])):
            return _login_page(wanted, 401, "That is not the password.")
        response = RedirectResponse(_own_path(wanted), 303)
        response.set_cookie(
            lock.cookie,
            lock.session(time.time()),
            max_age=SESSION_SECONDS,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response


def _bearer(connection: HTTPConnection) -> str | None:
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


async def _beginning(request: Request, limit: int) -> bytes:
    body = b""
    with suppress(ClientDisconnect):  # whoever went away reads no answer either
        async for part in request.stream():
            body += part
            if len(body) > limit:
                break
    return body[:limit]


def _own_path(path: str) -> str:
    """Return a path of this site; anything that a browser could take for another site becomes the start."""
    return quote(path) if path.startswith("/") and path[1:2] not in ("/", "\\") else "/"


def _with_headers(send: Send) -> Send:
    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
        await send(message)

    return send_more


def by_port(apps: Mapping[int, ASGIApp]) -> ASGIApp:
    """Return an application that is another one on each port."""

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        await apps[scope["server"][1]](scope, receive, send)

    return dispatch


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; background: #f5f4ef; color: #1d2b36; margin: 0;
  min-height: 100vh; display: grid; place-items: center; }
form { background: #fff; padding: 2rem; border-radius: 12px; box-shadow: 0 1px 8px #0002; width: min(20rem, 80vw); }
h1 { font-size: 1.2rem; margin: 0 0 1rem; } label { display: block; margin-bottom: .25rem; }
input, button { font: inherit; width: 100%; box-sizing: border-box; padding: .6rem; border-radius: 8px;
  border: 1px solid #b9c2c9; } button { margin-top: 1rem; background: #1d4e6b; color: #fff; border: 0; }
p { color: #a3281e; margin: .75rem 0 0; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def _login_page(wanted: str, status: int, words: str = "") -> Response:
    complaint = f'<p role="alert">{html.escape(words)}</p>' if words else ""
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Bulk upload</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style>'
        f'<form method="post" action="{LOGIN}"><h1>Bulk upload</h1><label for="password">Password</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" autofocus required>'
        f'<input type="hidden" name="next" value="{html.escape(wanted)}"><button>Log in</button>{complaint}</form>'
    )
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; frame-ancestors 'none'"
    )
    return HTMLResponse(page, status, {"Content-Security-Policy": policy, "Cache-Control": "no-store"})
