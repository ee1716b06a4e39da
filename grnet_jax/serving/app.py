"""The HTTP API, read-only, and the page."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import prometheus_client as prometheus
import pydantic
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from grnet_jax.errors import InputError
from grnet_jax.serving import answers, uploads
from grnet_jax.serving.batching import DEEPEST, Batcher, Job, compared_regions
from grnet_jax.serving.live import Follower, LiveCatalog
from grnet_jax.serving.problems import ProblemBody, RefusedError
from grnet_jax.serving.uploads import HeldPhotos, Upload
from input_pipeline import Box, crop_and_resize, pixel_box

_PAGE = Path(__file__).parent / "page"
_IMMUTABLE, _ASKED_AGAIN = "private, max-age=31536000, immutable", "no-cache"
_PROBLEM = {
    "model": ProblemBody,
    "content": {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemBody"}}
    },
}
_STATUSES = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)
_PHOTO = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}} for kind in uploads.TYPES
        },
    }
}
# Finds garments in uint8 [h, w, 3]: (box in pixels, category, score) each.
Detector = Callable[[np.ndarray], list[tuple[Box, str, float]]]


class Metrics:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        name = "grnet_search"
        self.requests = prometheus.Counter(
            f"{name}_requests", "Answers", ["route", "status"], registry=self.registry
        )
        self.seconds = prometheus.Histogram(
            f"{name}_seconds", "Time of searches", registry=self.registry
        )
        self.batch_size = prometheus.Histogram(
            f"{name}_batch_size", "Searches together", buckets=(1, 2, 4, 8, 16),
            registry=self.registry,
        )  # fmt: skip

    def gauge(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Adds a number that is asked for when it is read."""
        made = prometheus.Gauge(f"grnet_search_{name}", about, registry=self.registry)
        made.set_function(value)


class Service:
    """What answers requests, besides HTTP.

    Args:
      follower: of the catalog.
      shortlist: photos that a pairwise matcher scores.
      detector: of garments in photos that are sent.
    """

    def __init__(self, follower: Follower, shortlist: int, detector: Detector | None = None):
        self.follower, self.detector = follower, detector
        self.shortlist = shortlist
        self.metrics = Metrics()
        self.held = HeldPhotos()
        self.batcher = Batcher(shortlist, self.metrics.batch_size.observe)
        self._decoding = ThreadPoolExecutor(2, "decode")
        add = self.metrics.gauge
        add("queue_depth", "Searches that wait", lambda: self.batcher.waiting)
        add("photos_held", "Photos that were sent", lambda: len(self.held))
        add(
            "compilations",
            "Besides what is compiled before a generation is live",
            lambda: follower.compilations.count,
        )
        add("generation", "That is live", lambda: self._generation())
        add("catalog_photos", "Of it", lambda: len(self.live.catalog) if self.follower.live else 0)

    def _generation(self) -> int:
        return self.live.catalog.manifest.generation if self.follower.live else 0

    @property
    def live(self) -> LiveCatalog:
        """Returns the live generation; raises RefusedError where there is none yet."""
        if self.follower.live is None:
            text = "the catalog is being loaded: try again in some seconds"
            raise RefusedError(503, "loading", text, headers={"Retry-After": "5"})
        return self.follower.live

    @contextlib.asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Follows the catalog and searches, while the application lives."""
        thread = threading.Thread(target=self.follower.follow, daemon=True)
        thread.start()
        tasks = [asyncio.create_task(work) for work in (self.batcher.run(), self.held.purge())]
        yield
        self.follower.close()
        for task in tasks:
            task.cancel()
        self.batcher.close()
        self._decoding.shutdown(cancel_futures=True)

    async def decode(self, data: bytes, declared: str) -> Upload:
        """Decodes a photo, beside other work."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._decoding, uploads.read_upload, data, declared)

    async def hold(self, data: bytes, declared: str) -> answers.Photo:
        """Decodes and holds a photo, and finds the garments in it."""
        upload = await self.decode(data, declared)
        garments = []
        if self.detector is not None:
            scale = upload.width / upload.picture.shape[1]
            found: Any = await self.batcher.call(self.detector, upload.picture)
            garments = [
                answers.Garment(box=tuple(edge * scale for edge in box), category=name, score=score)
                for box, name, score in found
            ]
        token = self.held.add(upload)
        return answers.Photo(
            photo=token,
            width=upload.width,
            height=upload.height,
            expires_in=uploads.SECONDS_HELD,
            garments=garments,
        )

    async def search(self, asked: answers.Search) -> answers.Results:
        """Answers a search."""
        begun = time.perf_counter()
        live = self.live
        query, searched = self._query(live, asked)
        filters = _plain(asked.filters)
        try:
            passing = live.catalog.count(filters)
        except InputError as error:
            raise RefusedError(422, "unknown-field", str(error)) from error
        until, most = asked.offset + asked.limit, DEEPEST * self.shortlist
        if until > most:
            raise _invalid("offset", f"offset + limit is {until}; at most {most} items are listed")
        job = Job(live.catalog, query, filters, until + 1)
        matches = await self.batcher.search(job)
        results = [
            answers.Result(
                rank=rank,
                item_id=match.item,
                fields=match.fields,
                photo=live.shown(match.row),
                box=match.box,
                probability=match.probability,
                score=round(match.score, 6),
                other_photos=[*map(live.shown, match.image_rows)],
                copies=[*map(live.shown, match.copy_rows)],
            )
            for rank, match in enumerate(matches[:until], 1)
        ][asked.offset :]
        calibration = live.catalog.calibration
        sure, verdict = None, None
        if calibration is not None:
            first = (matches[0].score, matches[0].probability) if matches else (None, None)
            sure = calibration.in_catalog(*first)
            verdict = (
                None if sure is None else ("found" if sure >= calibration.threshold else "unlikely")
            )
        seconds = time.perf_counter() - begun
        self.metrics.seconds.observe(seconds)
        return answers.Results(
            generation=live.catalog.manifest.generation,
            photo=asked.photo,
            searched=searched,
            in_catalog=sure,
            verdict=verdict,  # type: ignore[arg-type]
            calibration=calibration.state if calibration else "none",
            passing=passing,
            more=len(matches) > until,
            results=results,
            milliseconds=round(1000 * seconds, 1),
        )

    def _query(
        self, live: LiveCatalog, asked: answers.Search | answers.Explain
    ) -> tuple[np.ndarray | int, Box | None]:
        """What the matcher sees, or a row of the catalog, and what of the photo is searched."""
        if asked.photo is None:
            return self.row(live, asked.photo_number or 0), None
        upload = self.held.get(asked.photo)
        height, width = upload.picture.shape[:2]
        scale = upload.width / width
        picture, box = upload.picture, None
        transform = live.catalog.matcher.transform()
        offset = (0.0, 0.0)
        if asked.box is not None:
            box = _check_box(asked.box, upload)
            box = tuple(edge / scale for edge in box)
            if not live.catalog.matcher.takes_boxes():  # then the box is the photo
                left, top, right, bottom = pixel_box(box, height, width)
                picture, box, offset = picture[top:bottom, left:right], None, (left, top)
        seen = pixel_box(transform.box(box, *picture.shape[:2]), *picture.shape[:2])
        searched: Any = tuple(
            round(scale * (edge + offset[place % 2]), 1) for place, edge in enumerate(seen)
        )
        return crop_and_resize(picture, box, transform), searched

    async def explain(self, asked: answers.Explain) -> answers.Explanation:
        """Names the region pairs that count most in a pair's score."""
        live = self.live
        row = self.row(live, asked.result)
        query, searched = self._query(live, asked)
        if live.catalog.matcher.region_pairs is None:
            raise RefusedError(404, "no-explanation", "this matcher does not compare regions")
        found: Any = await self.batcher.call(compared_regions, live.catalog, query, row, asked.top)
        result_crop = live.seen(row)
        if asked.photo is None:
            query_crop = live.seen(self.row(live, asked.photo_number or 0))
        else:
            upload = self.held.get(asked.photo)
            sides = (upload.width, upload.height) * 2
            pairs = zip(searched or (), sides, strict=True)
            query_crop = tuple(edge / side for edge, side in pairs)  # type: ignore[assignment]
        return answers.Explanation(
            pairs=[
                answers.Pair(
                    weight=node.weight,
                    query=_within(node.query, query_crop),
                    result=_within(node.gallery, result_crop),
                )
                for node in found
            ]
        )

    def row(self, live: LiveCatalog, number: int) -> int:
        """Returns the row of a photo; raises RefusedError for none."""
        row = live.row(number)
        if row is None:
            raise RefusedError(404, "no-such-photo", f"the catalog has no photo of number {number}")
        return row

    def about(self) -> answers.About:
        """Describes the catalog."""
        live, manifest = self.live, self.live.catalog.manifest
        return answers.About(
            name=self.follower.name,
            generation=manifest.generation,
            indexed_at=manifest.indexed_at,
            photos=manifest.rows,
            items=manifest.items,
            model=f"{manifest.model.name}, step {manifest.model.step}",
            calibration=live.catalog.calibration.state if live.catalog.calibration else "none",
            explains=live.catalog.matcher.region_pairs is not None,
            detects=self.detector is not None,
            facets=live.facets,
            samples=live.samples(),
            max_bytes=uploads.MAX_BYTES,
            max_pixels=uploads.MAX_PIXELS,
        )


def build_app(service: Service) -> FastAPI:
    """Returns the application, without what protects it."""
    app = FastAPI(
        title="Search by photo",
        version="1",
        docs_url=None,  # FastAPI's pages load from a CDN
        redoc_url=None,
        lifespan=service.running,
        responses=dict.fromkeys(_STATUSES, _PROBLEM),
    )
    _add_problems(app)
    _add_searches(app, service)
    _add_catalog(app, service)
    _add_operation(app, service)

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(_PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/page", StaticFiles(directory=_PAGE))
    return app


def _add_searches(app: FastAPI, service: Service) -> None:
    @app.post("/v1/photos", status_code=201, openapi_extra=_PHOTO)
    async def send_photo(request: Request) -> answers.Photo:
        """Sends a photo, which is held for ten minutes."""
        return await service.hold(await request.body(), request.headers.get("content-type", ""))

    @app.post("/v1/search")
    async def search(asked: answers.Search) -> answers.Results:
        """Searches by a photo that was sent, or by one of the catalog's."""
        return await service.search(asked)

    @app.post("/v1/photos/search", openapi_extra=_PHOTO)
    async def search_photo(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        box: Annotated[str, Query(description="x_1,y_1,x_2,y_2", max_length=100)] = "",
        filters: Annotated[str, Query(description="as of /v1/search", max_length=2000)] = "{}",
    ) -> answers.Results:
        """Sends a photo and searches by it."""
        asked = _parse_search(limit, box, filters)
        photo = await service.hold(await request.body(), request.headers.get("content-type", ""))
        return await service.search(asked.model_copy(update={"photo": photo.photo}))

    @app.post("/v1/explain")
    async def explain(asked: answers.Explain) -> answers.Explanation:
        """Explains a result by pairs of regions, of matchers that compare them."""
        return await service.explain(asked)

    @app.post("/v1/search/batch")
    async def search_batch(
        asked: answers.Searches, request: Request
    ) -> list[answers.Results | ProblemBody]:
        """Makes several searches; each has its results or its problem."""

        async def one(each: answers.Search) -> Any:
            try:
                return await service.search(each)
            except RefusedError as problem:
                return problem.describe("/v1/search", request.state.request_id)

        return await asyncio.gather(*map(one, asked.searches))


def _add_catalog(app: FastAPI, service: Service) -> None:
    @app.get("/v1/catalog")
    async def catalog() -> answers.About:
        """Describes the catalog, and the fields to filter by."""
        return service.about()

    @app.get(
        "/v1/photos/{number}/thumbnail",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}},
    )
    async def thumbnail(
        number: int,
        request: Request,
        of: Annotated[str, Query(description="of what it shows", max_length=64)] = "",
    ) -> Response:
        """Returns a photo of the catalog, small; kept by browsers where it is said of what."""
        live = service.live
        row = service.row(live, number)
        content = live.content(row)
        headers = {
            "Cache-Control": _IMMUTABLE if of == content else _ASKED_AGAIN,
            "ETag": f'"{number}-{content}"',
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        picture = await asyncio.to_thread(live.catalog.thumbnail, row)
        return Response(picture, headers=headers, media_type="image/jpeg")

    @app.get("/v1/items/{item_id:path}")
    async def item(item_id: str) -> answers.Item:
        """Returns an item with all of its photos."""
        found = service.live.item(item_id)
        if found is None:
            raise RefusedError(404, "no-such-item", "the catalog has no item of this id")
        return found


def _add_operation(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Says that the process lives."""
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Says whether searches are answered: the catalog is loaded, and all is compiled."""
        return {"status": "ready", "generation": str(service.live.catalog.manifest.generation)}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Returns what Prometheus reads."""
        text = prometheus.generate_latest(service.metrics.registry)
        return Response(text, media_type="text/plain; version=0.0.4")


def _add_problems(app: FastAPI) -> None:
    def answer(request: Request, problem: RefusedError) -> JSONResponse:
        return problem.response(request.url.path, request.state.request_id)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, problem: RefusedError) -> JSONResponse:
        return answer(request, problem)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        text = "the server failed; its log has the request_id"
        return answer(request, RefusedError(500, "failed", text))

    @app.exception_handler(HTTPException)
    async def routed(request: Request, error: HTTPException) -> JSONResponse:
        slug = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "malformed")
        headers = dict(error.headers or {})
        return answer(request, RefusedError(error.status_code, slug, error.detail, headers=headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()
        if any(one["type"] == "json_invalid" for one in found):
            return answer(request, RefusedError(400, "malformed", "the body is no JSON"))
        errors = [
            {"field": ".".join(map(str, one["loc"][1:])) or "body", "message": one["msg"]}
            for one in found[:20]
        ]
        said = f"{errors[0]['field']}: {errors[0]['message']}"
        return answer(request, RefusedError(422, "invalid", said, errors))


def _within(window: Box, crop: Box) -> Box:
    """Returns a part of a crop as a part of its photo, all of them shares."""
    left, top, right, bottom = crop
    across, down = right - left, bottom - top
    return (
        left + window[0] * across, top + window[1] * down,
        left + window[2] * across, top + window[3] * down,
    )  # fmt: skip


def _plain(filters: dict[str, Any]) -> dict[str, Any]:
    return {
        name: wanted.model_dump() if isinstance(wanted, answers.Range) else wanted
        for name, wanted in filters.items()
    }


def _check_box(box: Box, upload: Upload) -> Box:
    x_1, y_1, x_2, y_2 = box
    if not (0 <= x_1 < x_2 <= upload.width and 0 <= y_1 < y_2 <= upload.height):
        raise RefusedError(
            422, "box-outside",
            f"expected x_1 < x_2 and y_1 < y_2 within the photo of {upload.width}x{upload.height} "
            f"pixels, got {x_1:g},{y_1:g},{x_2:g},{y_2:g}",
        )  # fmt: skip
    return box


def _parse_search(limit: int, box: str, filters: str) -> answers.Search:
    given = {"photo": "", "limit": limit, "box": box.split(",") if box else None}
    try:
        return answers.Search.model_validate({**given, "filters": json.loads(filters)})
    except pydantic.ValidationError as error:
        found = error.errors()
        raise RequestValidationError(
            [{**one, "loc": ("query", *one["loc"])} for one in found]
        ) from error
    except ValueError as error:
        raise _invalid(
            "filters", f'expected JSON such as {{"category": ["dress"]}}: {error}'
        ) from error


def _invalid(field: str, message: str) -> RefusedError:
    return RefusedError(
        422, "invalid", f"{field}: {message}", [{"field": field, "message": message}]
    )
