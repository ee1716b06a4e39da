"""The HTTP API: what is answered, and what is refused, each in its way."""

import asyncio
import contextlib
import io
import struct
import time
import types
import zlib

import numpy as np
import pytest
from etils import epath
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("httpx2")

from starlette.testclient import TestClient

from grnet_jax.catalog.calibrating import Calibration
from grnet_jax.serving import batching, protection, uploads
from grnet_jax.serving.app import Service
from grnet_jax.serving.live import Follower
from grnet_jax.serving.server import ServeOptions, guarded
from tests.catalog.shops import draw, index, make_shop, save, small_loaded, write_csv

_JPEG = {"Content-Type": "image/jpeg"}


def _encode(picture=None, kind="JPEG", **how):
    content = io.BytesIO()
    (picture or draw(3)).save(content, kind, **how)
    return content.getvalue()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serving")
    source = make_shop(folder / "photos")
    index(epath.Path(folder / "shop"), source)
    return epath.Path(folder / "shop"), source


def _client(folder, matcher=None, ready=True, shortlist=200, **options):
    service = Service(Follower(folder, shortlist, matcher or small_loaded()), shortlist)
    client = TestClient(
        guarded(service, ServeOptions(**options)), base_url="http://localhost",
        raise_server_exceptions=False,
    )  # fmt: skip
    if ready:
        service.follower.look()
    return client, service


@pytest.fixture(scope="module")
def client(shop):
    made, _ = _client(shop[0], per_minute=0)
    with made:
        yield made


def _refused(answer, status, slug):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["type"], problem["status"]) == (f"urn:grnet:problem:{slug}", status)
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


def test_a_photo_of_the_catalog_is_found_first_with_one_call(client):
    found = client.post(
        "/v1/photos/search?limit=2",
        content=_encode(kind="PNG"),
        headers={"Content-Type": "image/png"},
    )
    first, second = found.json()["results"]
    assert (first["item_id"], first["fields"]["price"]) == ("item 1", "30")
    assert [one["number"] for one in first["other_photos"]] == [2]
    assert first["probability"] is None
    assert (first["rank"], second["rank"], found.json()["more"]) == (1, 2, True)
    picture = client.get("/" + first["photo"]["thumbnail"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert "immutable" in picture.headers["cache-control"]
    other = client.get(f"/v1/photos/{first['photo']['number']}/thumbnail?of=another")
    assert other.headers["cache-control"] == "no-cache"  # of another catalog at this address
    filtered = client.post(
        '/v1/photos/search?box=4,5,40,50&filters={"category":["a"]}',
        content=_encode(),
        headers=_JPEG,
    ).json()
    assert (filtered["searched"], filtered["passing"]) == ([4, 5, 40, 50], 6)
    tag = {"If-None-Match": picture.headers["etag"]}
    assert client.get("/" + first["photo"]["thumbnail"], headers=tag).status_code == 304


def test_searches_name_a_photo_that_was_sent(client):
    sent = client.post("/v1/photos", content=_encode(), headers=_JPEG)
    assert (sent.status_code, sent.json()["width"], sent.json()["garments"]) == (201, 48, [])
    asked = {"photo": sent.json()["photo"], "filters": {"category": ["a"], "price": {"max": 50}}}
    found = client.post("/v1/search", json=asked).json()
    assert found["passing"] == 3
    assert {one["fields"]["category"] for one in found["results"]} == {"a"}
    whole = client.post("/v1/search", json={"photo": sent.json()["photo"], "limit": 5}).json()
    rest = {"photo": sent.json()["photo"], "limit": 3, "offset": 2}
    assert client.post("/v1/search", json=rest).json()["results"] == whole["results"][2:]
    box = client.post("/v1/search", json={"photo": sent.json()["photo"], "box": [4, 5, 40, 50]})
    assert box.json()["searched"] == [4, 5, 40, 50]


def test_a_photo_of_the_catalog_is_searched_by(client):
    found = client.post("/v1/search", json={"photo_number": 4}).json()
    assert found["results"][0]["item_id"] == "item 2"
    both = [{"photo_number": 4}, {"photo": "ph_none"}]
    first, second = client.post("/v1/search/batch", json={"searches": both}).json()
    assert first["results"] == found["results"]
    assert second["type"] == "urn:grnet:problem:photo-expired"


def test_the_catalog_and_its_items_are_described(client):
    about = client.get("/v1/catalog").json()
    assert (about["photos"], about["items"], about["explains"]) == (12, 6, False)
    facets = {facet["name"]: facet for facet in about["facets"]}
    assert facets["category"]["values"] == [{"value": "a", "count": 6}, {"value": "b", "count": 6}]
    assert (facets["price"]["min"], facets["price"]["max"]) == (0, 110)
    assert len(client.get("/v1/items/item 2").json()["photos"]) == 2
    assert client.get("/readyz").json()["generation"] == "1"
    assert client.get("/healthz").status_code == 200
    assert 'requests_total{route="/v1/catalog",status="200"}' in client.get("/metrics").text


def test_the_page_and_every_answer_are_protected(client):
    for path in ("/", "/page/main.js", "/v1/catalog", "/nowhere"):
        headers = client.get(path).headers
        assert {*protection.HEADERS} <= {*headers}, path
    assert "script-src 'self'" in client.get("/").headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "slug"),
    [
        ("GET", "/nowhere", None, 404, "not-found"),
        ("DELETE", "/v1/search", None, 405, "method-not-allowed"),
        ("GET", "/v1/photos/99/thumbnail", None, 404, "no-such-photo"),
        ("GET", "/v1/photos/x/thumbnail", None, 422, "invalid"),
        ("GET", "/v1/items/../../etc/passwd", None, 404, "not-found"),
        ("GET", "/v1/items/..%2F..%2Fetc%2Fpasswd", None, 404, "no-such-item"),
        ("GET", "/page/..%2fapp.py", None, 404, "not-found"),
        ("POST", "/v1/search", "{", 400, "malformed"),
        ("POST", "/v1/search", "{}", 422, "invalid"),
        ("POST", "/v1/search", '{"photo": "a", "photo_number": 1}', 422, "invalid"),
        ("POST", "/v1/search", '{"photo_number": 1, "limit": 101}', 422, "invalid"),
        ("POST", "/v1/search", '{"photo_number": 1, "limmit": 1}', 422, "invalid"),
        ("POST", "/v1/search", '{"photo": "ph_unknown"}', 404, "photo-expired"),
        ("POST", "/v1/search", '{"photo_number": 77}', 404, "no-such-photo"),
        ("POST", "/v1/search", '{"photo_number": 1, "filters": {"x": 1}}', 422, "unknown-field"),
        ("POST", "/v1/search", '{"photo_number":1,"filters":{"\\ud800":1}}', 422, "unknown-field"),
        ("POST", "/v1/search", '{"photo_number": 1, "\\ud800": 1}', 422, "invalid"),
        ("POST", "/v1/search", '{"photo": "\\ud800"}', 422, "invalid"),
        ("POST", "/v1/explain", '{"photo_number": 1, "result": 2}', 404, "no-explanation"),
        ("POST", "/v1/photos/search?box=1,2", "", 422, "invalid"),
        ("POST", "/v1/photos/search?box=1,2,3,x", "", 422, "invalid"),
        ("POST", "/v1/photos/search?filters={", "", 422, "invalid"),
        ("POST", "/v1/photos/search?filters=[]", "", 422, "invalid"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_says_why(client, method, path, body, status, slug):
    headers = {"Content-Type": "application/json"}
    _refused(client.request(method, path, content=body, headers=headers), status, slug)


@pytest.mark.parametrize("box", [[-1, 0, 9, 9], [9, 9, 4, 12], [0, 0, 49, 60], [5, 5, 5, 9]])
def test_a_box_outside_of_the_photo_is_refused(client, box):
    photo = client.post("/v1/photos", content=_encode(), headers=_JPEG).json()["photo"]
    _refused(client.post("/v1/search", json={"photo": photo, "box": box}), 422, "box-outside")


def _png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", 9) + b"IDAT" + bytes(13)


def _scans(count):
    whole = _encode(progressive=True)
    start = whole.rindex(b"\xff\xda")
    return whole[:start] + whole[start:-2] * count + whole[-2:]


_HOSTILE = {
    "empty": (b"", 415, "unsupported-type"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported-type"),
    "html": (b"<script>alert(1)</script>", 415, "unsupported-type"),
    "pdf": (b"%PDF-1.7", 415, "unsupported-type"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0", 415, "unsupported-type"),
    "gif": (b"GIF89a", 415, "unsupported-type"),
    "truncated": (_encode()[:300], 422, "photo-unreadable"),
    "header alone": (b"\xff\xd8\xff", 422, "photo-unreadable"),
    "one pixel": (_encode(Image.new("RGB", (1, 1))), 422, "too-small"),
    "a line": (_encode(Image.new("RGB", (6000, 40))), 422, "too-small"),
    "a PNG of 60000x60000": (_png_header(60_000, 60_000), 422, "too-many-pixels"),
    "many scans": (_scans(200), 422, "photo-unreadable"),
    "large": (b"\xff\xd8\xff" + bytes(uploads.MAX_BYTES), 413, "too-large"),
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_hostile_uploads_are_refused_at_once(client, name):
    data, status, slug = _HOSTILE[name]
    kind = {"Content-Type": "image/png"} if data[:4] == b"\x89PNG" else _JPEG
    begun = time.monotonic()
    _refused(client.post("/v1/photos", content=data, headers=kind), status, slug)
    assert time.monotonic() - begun < 2


def test_a_body_in_chunks_is_cut_off_too(client):
    chunks = (bytes(1 << 20) for _ in range(11))
    _refused(client.post("/v1/photos", content=chunks, headers=_JPEG), 413, "too-large")


def test_the_type_has_to_be_the_photos(client):
    wrong = {"Content-Type": "image/png"}
    _refused(client.post("/v1/photos", content=_encode(), headers=wrong), 415, "unsupported-type")


def test_orientation_is_applied_and_large_photos_are_held_smaller():
    exif = Image.Exif()
    exif[0x0112] = 6
    upload = uploads.read_upload(_encode(Image.new("RGB", (3200, 800)), exif=exif), "image/jpeg")
    assert (upload.width, upload.height, upload.picture.shape) == (800, 3200, (1600, 400, 3))


def test_photos_are_held_for_a_while_and_not_without_end(monkeypatch):
    held, upload = uploads.HeldPhotos(), uploads.Upload(np.zeros((9, 9, 3), np.uint8), 9, 9)
    tokens = [held.add(upload) for _ in range(300)]
    assert len(held) == len({*tokens[-256:]}) == 256
    assert held.get(tokens[-1]) is upload
    later = time.monotonic() + uploads.SECONDS_HELD + 1
    monkeypatch.setattr(uploads, "time", types.SimpleNamespace(monotonic=lambda: later))
    with pytest.raises(uploads.RefusedError):
        held.get(tokens[-1])
    monkeypatch.setattr(uploads, "_PURGE_SECONDS", 0.001)

    async def wait():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(held.purge(), 0.05)

    asyncio.run(wait())
    assert (len(held), held._bytes) == (0, 0)


def test_a_token_a_name_and_a_rate_are_asked_for(shop):
    client, _ = _client(shop[0], token="secret", per_minute=30)
    with client:
        assert _refused(client.get("/v1/catalog"), 401, "unauthorized")
        bearer = {"Authorization": "Bearer secret"}
        assert client.get("/v1/catalog", headers=bearer).status_code == 200
        assert client.get("/").status_code == 200
        _refused(client.get("/v1/catalog", headers={"Host": "evil.example"}), 400, "host")
        answers = [client.get("/v1/catalog", headers=bearer) for _ in range(6)]
        _refused(answers[-1], 429, "rate")
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200


def test_a_server_for_others_is_asked_by_any_name_unless_names_are_given(shop):
    other = {"Host": "192.0.2.7:8000"}
    for options, status in [
        ({"public": True}, 200), ({"public": True, "allowed_hosts": ("shop.example",)}, 400),
        ({"token": "secret"}, 401),
    ]:  # fmt: skip
        client, _ = _client(shop[0], host="0.0.0.0", **options)
        with client:
            assert client.get("/v1/catalog", headers=other).status_code == status


def test_before_the_catalog_is_loaded_it_says_so(shop, monkeypatch):
    client, service = _client(shop[0], ready=False)
    monkeypatch.setattr(service.follower, "follow", lambda: None)
    with client:
        assert _refused(client.get("/readyz"), 503, "loading")
        assert client.get("/healthz").status_code == 200


def test_failures_deadlines_and_queues_have_their_answers(shop, monkeypatch):
    client, service = _client(shop[0])
    asked = {"photo_number": 1}
    with client:
        monkeypatch.setattr(batching, "search_together", lambda *_: 1 / 0)
        problem = _refused(client.post("/v1/search", json=asked), 500, "failed")
        assert "division" not in str(problem)
        monkeypatch.setattr(batching, "_DEADLINE", 0.05)
        monkeypatch.setattr(batching, "search_together", lambda *_: time.sleep(0.2))
        _refused(client.post("/v1/search", json=asked), 504, "deadline")
        monkeypatch.setattr(service.batcher._queue, "put_nowait", _full)
        answer = client.post("/v1/search", json=asked)
        _refused(answer, 503, "busy")
        assert answer.headers["retry-after"] == "1"


def _full(_):
    raise asyncio.QueueFull


def test_a_slow_body_is_cut_off(client, monkeypatch):
    monkeypatch.setattr(protection, "_BODY_SECONDS", 0.05)

    async def slow():
        await asyncio.sleep(1)

    async def ask():
        with pytest.raises(protection.RefusedError) as caught:
            await protection._receive_all(slow, {})
        return caught.value.slug

    assert asyncio.run(ask()) == "body-too-slow"


def test_a_new_generation_is_live_without_an_error(tmp_path):
    folder, source = epath.Path(tmp_path / "shop"), make_shop(tmp_path / "photos")
    index(folder, source)
    client, service = _client(folder)
    with client:
        assert client.get("/v1/catalog").json()["generation"] == 1
        lines = source.read_text().splitlines()
        source.write_text("\n".join(lines[:-2]) + "\n")
        index(folder, source)
        service.follower.look()
        about = client.get("/v1/catalog").json()
        assert (about["generation"], about["photos"]) == (2, 10)
        assert client.post("/v1/search", json={"photo_number": 1}).json()["generation"] == 2


def test_searches_together_are_as_alone(shop):
    _, service = _client(shop[0])
    catalog = service.live.catalog
    size = catalog.matcher.config.image.size
    rng = np.random.default_rng(0)
    queries = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(5)]
    filters = [{}, {"category": ["a"]}, {}, {"category": ["b"]}, {}]
    pairs = zip([*queries[:4], 7], filters, strict=True)
    jobs = [batching.Job(catalog, query, wanted, 3) for query, wanted in pairs]
    together = batching.search_together(jobs, 200)
    for job, found in zip(jobs, together, strict=True):
        (alone,) = batching.search_together([job], 200)
        assert [one.item for one in found] == [one.item for one in alone]
        np.testing.assert_allclose(
            [one.score for one in found], [one.score for one in alone], atol=1e-5
        )


def test_regions_explain_what_a_graph_found(tmp_path):
    folder, matcher = epath.Path(tmp_path / "shop"), small_loaded("grnet")
    index(folder, make_shop(tmp_path / "photos"), matcher)
    client, service = _client(folder, matcher, shortlist=3)
    with client:
        photo = client.post("/v1/photos", content=_encode(), headers=_JPEG).json()["photo"]
        asked = {"photo": photo, "box": [12, 15, 36, 45], "result": 3, "top": 4}
        pairs = client.post("/v1/explain", json=asked).json()["pairs"]
        assert len(pairs) == 4
        assert [one["weight"] for one in pairs] == sorted(
            (p["weight"] for p in pairs), reverse=True
        )
        for one in pairs:
            left, top, right, bottom = one["query"]
            assert 0.25 - 1e-6 <= left < right <= 0.75 + 1e-6
            assert 0.25 - 1e-6 <= top < bottom <= 0.75 + 1e-6
        # Nor do long lists, batches of any size or filters need what was not compiled before.
        asks = [{"photo_number": 1, "limit": 4, "offset": 8}, {"photo": photo, "limit": 6}] * 3
        asks += [{"photo": photo, "filters": {"category": ["a"]}, "limit": 1}] * 2
        for count in (1, 3, 8):
            body = {"searches": asks[-count:]}
            answers = client.post("/v1/search/batch", json=body).json()
            assert [len(answer["results"]) for answer in answers] == ([0, 6] * 3 + [1, 1])[-count:]
        assert service.follower.compilations.count == 0
        problem = _refused(client.post("/v1/search", json=asks[0] | {"offset": 9}), 422, "invalid")
        assert "at most 12 items are listed" in problem["detail"]


def test_two_garments_of_one_photo_are_two_photos(tmp_path):
    save(tmp_path / "photos" / "0.png", 0)
    rows = [("0.png", "both", 0, 0, 30, 30), ("0.png", "both", 10, 20, 48, 60)]
    columns = ("image", "item_id", "x_1", "y_1", "x_2", "y_2")
    source = write_csv(tmp_path / "photos" / "photos.csv", rows, columns)
    folder, matcher = epath.Path(tmp_path / "shop"), small_loaded("grnet")
    index(folder, source, matcher)
    client, service = _client(folder, matcher)
    with client:
        (found,) = client.post("/v1/search", json={"photo_number": 0}).json()["results"]
        shown = [one["number"] for one in (found["photo"], *found["other_photos"])]
        assert sorted(shown) == [*service.live.catalog.generation.listing["number"]]


def test_a_probability_is_shown_where_it_is_good_enough(shop, monkeypatch):
    client, service = _client(shop[0])
    catalog = service.live.catalog
    good = Calibration(
        scale=9.0, none=2.0, fingerprint="", rows=12, shortlist=200, queries=100, source="",
        ece_first=0.01, ece_shown=0.01, auroc=0.9, threshold=0.5, fpr=0.1, fitted_at="",
    )  # fmt: skip
    with client:
        for calibration, shown, told in [
            (good, True, True),
            (good.model_copy(update={"auroc": 0.5}), True, False),
            (good.model_copy(update={"ece_first": 0.5}), False, False),
            (good.model_copy(update={"shortlist": 50}), False, False),  # fitted on other lists
        ]:
            monkeypatch.setattr(catalog, "calibration", calibration)
            found = client.post("/v1/search", json={"photo_number": 3}).json()
            total = sum(one["probability"] for one in found["results"]) if shown else 0.0
            assert (found["results"][0]["probability"] is not None) == shown
            assert (found["in_catalog"] is not None) == told
            if told:
                np.testing.assert_allclose(found["in_catalog"], total, rtol=1e-6)
                assert found["verdict"] in ("found", "unlikely")
