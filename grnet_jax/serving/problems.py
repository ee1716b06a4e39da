"""What went wrong with a request, as RFC 9457 says it."""

from http import HTTPStatus
from typing import Any

import pydantic
from fastapi.responses import JSONResponse


class RefusedError(Exception):
    """A request that is refused.

    Args:
      status: of HTTP.
      slug: names the kind of problem; clients decide by it.
      detail: in words, for people.
      errors: fields with what is wrong with each.
      headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        errors: list[dict[str, str]] | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(detail)
        self.status, self.slug, self.detail = status, slug, detail
        self.errors, self.headers = errors or [], headers or {}

    def describe(self, path: str = "", request_id: str = "") -> dict[str, Any]:
        """Returns the fields of `ProblemBody`."""
        return {
            "type": f"urn:grnet:problem:{self.slug}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": path,
            "errors": self.errors,
            "request_id": request_id,
        }

    def response(self, path: str, request_id: str) -> JSONResponse:
        """Returns the answer."""
        return JSONResponse(
            self.describe(path, request_id),
            self.status,
            self.headers,
            "application/problem+json",
        )


class FieldError(pydantic.BaseModel):
    """What is wrong with one field of a request."""

    field: str
    message: str


class ProblemBody(pydantic.BaseModel):
    """A problem, as application/problem+json."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError]
    request_id: str
