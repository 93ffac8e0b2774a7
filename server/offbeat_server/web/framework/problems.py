"""Everything that can be wrong with a management request, as RFC 9457 problem documents that name each field.

One place turns our errors into answers, so that no handler builds an error by hand and none escapes as a bare 500.
"""

import random
from collections.abc import Sequence
from http import HTTPStatus

import orjson
import structlog
from aiohttp import web

from offbeat_server.common.errors import (
    CommandError,
    ConflictError,
    DefinitionError,
    NotFoundError,
    PreconditionError,
    Problem,
    UnavailableError,
)

log = structlog.get_logger("problems")
CONTENT_TYPE = "application/problem+json"


class ApiError(Exception):
    """A request that is answered with a problem document."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[Problem] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.errors, self.headers = status, detail, errors, headers or {}


def not_found(what: str) -> ApiError:
    """There is no such thing, or it is not for this key to see."""
    return ApiError(404, f"There is no {what}.")


def api_error_of(error: Exception) -> ApiError | None:
    """Return the answer to a known error; None for an unexpected one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, DefinitionError):
        return ApiError(422, str(error), error.problems)
    if isinstance(error, PreconditionError):
        return ApiError(412, str(error))
    if isinstance(error, NotFoundError):
        return ApiError(404, str(error))
    if isinstance(error, ConflictError):
        return ApiError(409, str(error), error.problems)
    if isinstance(error, CommandError):
        return ApiError(422, str(error))
    if isinstance(error, UnavailableError):
        # Spread over some seconds, so that clients turned away together do not come back together.
        return ApiError(503, str(error), headers={"Retry-After": str(random.randint(1, 5))})
    if isinstance(error, web.HTTPException):
        keep = {name: value for name, value in error.headers.items() if name in ("Allow", "WWW-Authenticate")}
        return ApiError(error.status, error.text or error.reason, headers=keep)
    return None


def answer_of(error: Exception, request: web.Request) -> web.Response:
    """The problem document for an error; an unexpected one is logged whole and answered without its insides."""
    refusal = api_error_of(error)
    if refusal is None:
        log.exception("problems.request_failed", method=request.method, path=request.path, exc_info=error)
        refusal = ApiError(500, "Offbeat had an internal error; the server's log has the details.")
    return problem_response(refusal, request.path)


def problem_response(refusal: ApiError, instance: str) -> web.Response:
    """The document. `type` is a stable name for programs, `detail` a sentence for people."""
    title = HTTPStatus(refusal.status).phrase
    document: dict[str, object] = {
        "type": "urn:offbeat:problem:" + title.lower().replace(" ", "-"),
        "title": title,
        "status": refusal.status,
        "detail": refusal.detail,
        "instance": instance,
    }
    if refusal.errors:
        document["errors"] = [{"field": problem.field, "reason": problem.reason} for problem in refusal.errors]
    response = web.Response(
        body=orjson.dumps(document),
        status=refusal.status,
        content_type=CONTENT_TYPE,
        headers={"Cache-Control": "no-store", **refusal.headers},
    )
    if refusal.status in (408, 413):  # the rest of the body is not waited for
        response.force_close()
    return response
