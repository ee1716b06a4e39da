"""Clients that send whatever the description allows, or hardly anything, over sockets."""

import json
import socket
import threading
import time

import pytest
from etils import epath

pytest.importorskip("fastapi")
pytest.importorskip("httpx2")

import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from grnet_jax.serving import protection
from grnet_jax.serving.app import Service
from grnet_jax.serving.live import Follower
from grnet_jax.serving.server import ServeOptions, guarded
from tests.catalog.shops import index, make_shop, small_loaded


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    index(epath.Path(folder / "shop"), make_shop(folder / "photos"))
    service = Service(Follower(epath.Path(folder / "shop"), 200, small_loaded()), 200)
    service.follower.look()
    return guarded(service, ServeOptions(per_minute=0))


@pytest.fixture(scope="module")
def client(app):
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as made:
        yield made


_JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "a", "category", "\ud800", "x" * 200, "\x00"]), st.text(max_size=9),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.none()),
)  # fmt: skip


def _values(schema, known):
    """What a schema of the description allows; now and then something else."""
    if "$ref" in schema:
        return _values(known[schema["$ref"].rpartition("/")[2]], known)
    if "anyOf" in schema:
        return st.one_of([_values(part, known) for part in schema["anyOf"]])
    return st.one_of(_allowed(schema, known), _allowed(schema, known), _JUNK)


def _allowed(schema, known):
    kind = schema.get("type")
    if kind == "object":
        parts = {name: _values(part, known) for name, part in schema.get("properties", {}).items()}
        if not parts:
            names = st.sampled_from(["category", "price", "no", "\ud800"])
            return st.dictionaries(
                names, _values(schema["additionalProperties"], known), max_size=2
            )
        needed = {name: parts.pop(name) for name in schema.get("required", ())}
        return st.fixed_dictionaries(needed, optional=parts)
    if kind == "array":
        if "prefixItems" in schema:
            return st.tuples(*(_values(part, known) for part in schema["prefixItems"])).map(list)
        return st.lists(_values(schema["items"], known), min_size=1, max_size=3)
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", -50), schema.get("maximum", 50)
        return st.integers(low, high) if kind == "integer" else st.floats(low, high)
    return {"boolean": st.booleans(), "null": st.none()}.get(kind, st.text(max_size=9))


@pytest.mark.parametrize("path", ["/v1/search", "/v1/search/batch", "/v1/explain"])
def test_whatever_is_asked_has_an_answer_that_is_described(client, path):
    described = client.get("/openapi.json").json()
    known = described["components"]["schemas"]
    post = described["paths"][path]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]

    @settings(max_examples=80, deadline=None, database=None, derandomize=True,
              suppress_health_check=[*HealthCheck])  # fmt: skip
    @given(_values(schema, known))
    def ask(body):
        headers = {"Content-Type": "application/json"}
        answer = client.post(path, content=json.dumps(body), headers=headers)
        assert answer.status_code in (200, 404, 422), answer.text
        assert str(answer.status_code) in post["responses"]
        if answer.status_code != 200:
            assert answer.headers["content-type"] == "application/problem+json"
            assert {*answer.json()} == {*known["ProblemBody"]["properties"]}

    ask()


@pytest.fixture
def port(app):
    config = uvicorn.Config(app, port=0, log_level="error", http=protection.DeadlineProtocol)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.02)
    yield running.servers[0].sockets[0].getsockname()[1]
    running.should_exit = True
    thread.join()


_HEAD = b"POST /v1/photos HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"


@pytest.mark.parametrize(
    ("begin", "drip", "status"),
    [
        (b"GET / HTTP/1.1\r\n", b"X-A: 1\r\n", b""),
        (b"", b"G", b""),
        (_HEAD + b"Content-Length: 5000\r\n\r\n", b"\xff", b"408"),
    ],
    ids=["header", "first line", "body"],
)
def test_clients_that_drip_are_cut_off(port, monkeypatch, begin, drip, status):
    for name in ("_HEADER_SECONDS", "_BODY_SECONDS"):
        monkeypatch.setattr(protection, name, 0.4)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as open_socket:
        open_socket.sendall(begin)
        begun, said = time.monotonic(), b""
        open_socket.settimeout(0.1)
        while time.monotonic() - begun < 8:
            try:
                open_socket.sendall(drip)
                part = open_socket.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
            if not part:
                break
            said += part
        assert time.monotonic() - begun < 8
    assert status in said
