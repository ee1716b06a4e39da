"""What stands between the network and the application: limits, deadlines, headers, metrics."""

import asyncio
import hmac
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import h11
from fastapi.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from grnet_jax.serving.problems import RefusedError
from grnet_jax.serving.uploads import MAX_BYTES

_HEADER_SECONDS, _BODY_SECONDS = 10.0, 15.0
_CLIENTS = 10_000  # whose rates are remembered
_BURST_SECONDS = 10
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), geolocation=(), microphone=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_OPEN = ("/healthz", "/readyz")  # without a token


class Rates:
    """How many requests a client may make: so many a minute, some of them at once.

    Args:
      per_minute: 0 for no limit.
    """

    def __init__(self, per_minute: float):
        self._rate = per_minute / 60
        self._burst = max(1.0, self._rate * _BURST_SECONDS)
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, client: str) -> None:
        """Counts a request; raises RefusedError where it is one too many."""
        if not self._rate:
            return
        now = time.monotonic()
        left, before = self._clients.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - before) * self._rate)
        self._clients[client] = max(left - 1, 0.0) if left >= 1 else left, now
        if len(self._clients) > _CLIENTS:
            self._clients.popitem(last=False)
        if left < 1:
            wait = str(max(1, round((1 - left) / self._rate)))
            raise RefusedError(
                429, "rate", f"too many requests: wait {wait} s", headers={"Retry-After": wait}
            )


class Guard:
    """The outermost application: refuses what may not pass, and answers what went wrong.

    Args:
      app: what is guarded.
      hosts: names that requests may have for this server; "*" for any.
      token: that every request has to bear; "" for none.
      per_minute: requests of a client.
      count: told (path, status) of every answer.
    """

    def __init__(
        self,
        app: Any,
        *,
        hosts: Sequence[str],
        token: str,
        per_minute: float,
        count: Callable[[str, int], object],
    ):
        self._app, self._hosts, self._token, self._count = app, hosts, token, count
        self._rates = Rates(per_minute)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        headers = dict(scope["headers"])
        status = 0

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = {**HEADERS, "x-request-id": request_id}
                kept = [pair for pair in message["headers"] if pair[0].decode() not in more]
                added = [(name.encode(), text.encode()) for name, text in more.items()]
                message = {**message, "headers": [*kept, *added]}
            await send(message)

        answer: JSONResponse | None = None
        try:
            self._check(scope, headers)
            if scope["method"] in ("POST", "PUT", "PATCH"):
                receive = await _receive_all(receive, headers)
            await self._app(scope, receive, sending)
        except RefusedError as problem:
            answer = problem.response(scope["path"], request_id)
        except Exception:
            logging.getLogger("uvicorn.error").exception("Request %s failed", request_id)
            status = status or 500  # answered by the application's handler
        if answer is not None:
            await answer(scope, receive, sending)
        route = getattr(scope.get("route"), "path", "other")
        self._count(route, status)

    def _check(self, scope: Any, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1").rpartition("@")[2].lower()
        name = host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
        if "*" not in self._hosts and name not in self._hosts:
            raise RefusedError(
                400, "host", "this server is not called so: start it with --allowed_host"
            )
        if scope["path"] in _OPEN:
            return
        self._rates.check((scope.get("client") or ("",))[0])
        given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        public = scope["path"] == "/" or scope["path"].startswith("/page/")
        if self._token and not public and not hmac.compare_digest(given, self._token.encode()):
            raise RefusedError(
                401, "unauthorized", "a token is needed", headers={"WWW-Authenticate": "Bearer"}
            )


async def _receive_all(receive: Any, headers: dict[bytes, bytes]) -> Any:
    """Reads a body within its limits; returns what gives it to the application."""
    large = RefusedError(413, "too-large", f"at most {MAX_BYTES:,} bytes are taken")
    if int(headers.get(b"content-length", b"0") or 0) > MAX_BYTES:
        raise large
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RefusedError(400, "malformed", "the body ended early")
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > MAX_BYTES:
                    raise large
    except TimeoutError:
        text = f"the body took more than {_BODY_SECONDS:g} s"
        raise RefusedError(408, "body-too-slow", text, headers={"Connection": "close"}) from None
    given = False

    async def replay() -> Any:
        nonlocal given
        if given:
            return await receive()  # that the client leaves
        given = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return replay


class DeadlineProtocol(H11Protocol):
    """HTTP whose headers have to come within ten seconds; uvicorn itself waits without end."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Starts the clock."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(_HEADER_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Stops the clock once the headers are there, and starts it for the next request's."""
        if self._deadline is None and self.conn.their_state is h11.IDLE:
            self._deadline = self.loop.call_later(_HEADER_SECONDS, self.transport.close)
        super().data_received(data)
        if self._deadline is not None and self.conn.their_state is not h11.IDLE:
            self._deadline.cancel()
            self._deadline = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clock."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)
