"""The REST API of a session cluster: one table of routes makes the server, its OpenAPI document and their tests.

Nobody gets past the guard without the token, whatever the method or path; then come the limits, then the routes.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lakeward import __version__
from lakeward.cluster.coordinator import Coordinator, Submission
from lakeward.cluster.jobs import JobRecord
from lakeward.cluster.process import read_log
from lakeward.engine.core.errors import ConfigError, LakewardError

log = logging.getLogger("lakeward")

BODY_BYTES_MAX = 64 << 10
BODY_TIMEOUT_S = 10.0
LOG_BYTES_MAX = 256 << 10

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Path = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
Parallelism = Annotated[int, msgspec.Meta(ge=1, le=32_768)]


class SubmitBody(msgspec.Struct, forbid_unknown_fields=True):
    """A job to be run."""

    job: Name
    name: Name | None = None
    parallelism: Parallelism = 1
    venv: Path | None = None
    savepoint: Path | None = None


class SavepointBody(msgspec.Struct, forbid_unknown_fields=True):
    """A savepoint to be written."""

    target: Path


class StopBody(msgspec.Struct, forbid_unknown_fields=True):
    """How a job is to stop."""

    savepoint: Path | None = None


class RescaleBody(msgspec.Struct, forbid_unknown_fields=True):
    """The parallelism that a job is to go on with."""

    parallelism: Parallelism


class EmptyBody(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing."""


class Problem(msgspec.Struct):
    """What was wrong with a request."""

    error: str
    hint: str = ""


class JobView(msgspec.Struct):
    """A job."""

    id: str
    name: str
    job: str
    state: str
    parallelism: int
    folder: str
    venv: str | None
    savepoint: str | None
    created_us: int
    restarts: int
    rescale_to: int | None
    error: str | None
    savepoints: list[dict[str, Any]]
    status: dict[str, Any]
    checkpoints: str


class ClusterView(msgspec.Struct):
    """The cluster."""

    version: str
    slots: int
    slots_free: int
    jobs: int


class LogView(msgspec.Struct):
    """A part of a job's log."""

    text: str
    next_offset: int


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, error: str, hint: str = "") -> None:
        super().__init__(error)
        self.status = status
        self.problem = Problem(error, hint)


Handler = Callable[[Coordinator, Request, Any], Any]


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """A route.

    Args:
        method: Of HTTP.
        path: With names in braces.
        handler: Answers; runs on a thread of its own.
        summary: What it does.
        answer: What it answers with.
        body: What it takes; None for none.
        status: Of its answer.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answer: Any
    body: type[msgspec.Struct] | None = None
    status: int = 200


def _view(coordinator: Coordinator, record: JobRecord, status: dict[str, object]) -> JobView:
    fields = asdict(record)
    fields["checkpoints"] = str(coordinator.files.job_folder(record.id) / "checkpoints")
    return msgspec.convert(fields | {"state": record.state.value, "status": status}, JobView)


def _found(coordinator: Coordinator, request: Request) -> str:
    try:
        return coordinator.record(request.path_params["job"])[0].id
    except ConfigError as error:
        raise RefusedError(404, error.message, error.hint) from error


def _show(coordinator: Coordinator, request: Request, body: None) -> JobView:
    return _view(coordinator, *coordinator.record(_found(coordinator, request)))


def _list(coordinator: Coordinator, request: Request, body: None) -> list[JobView]:
    return [_view(coordinator, record, status) for record, status in coordinator.records()]


def _cluster(coordinator: Coordinator, request: Request, body: None) -> ClusterView:
    jobs = len(coordinator.records())
    return ClusterView(__version__, coordinator.options.slots, coordinator.slots_free, jobs)


def _submit(coordinator: Coordinator, request: Request, body: SubmitBody) -> JobView:
    wanted = Submission(body.job, body.name, body.parallelism, body.venv, body.savepoint)
    return _view(coordinator, coordinator.submit(wanted), {})


def _logs(coordinator: Coordinator, request: Request, body: None) -> LogView:
    path = coordinator.log_path(_found(coordinator, request))
    asked = request.query_params.get("offset", "-65536")
    if len(asked) > 18 or not asked.removeprefix("-").isdecimal() or not asked.isascii():
        raise RefusedError(400, "offset is no number")
    data, end = read_log(path, int(asked), LOG_BYTES_MAX)
    return LogView(data.decode("utf-8", "replace"), end)


def _savepoint(coordinator: Coordinator, request: Request, body: SavepointBody) -> JobView:
    job = _found(coordinator, request)
    coordinator.savepoint(job, body.target)
    return _view(coordinator, *coordinator.record(job))


def _stop(coordinator: Coordinator, request: Request, body: StopBody) -> JobView:
    job = _found(coordinator, request)
    if body.savepoint is None:
        coordinator.stop(job)
    else:
        coordinator.savepoint(job, body.savepoint, stops=True)
    return _view(coordinator, *coordinator.record(job))


def _rescale(coordinator: Coordinator, request: Request, body: RescaleBody) -> JobView:
    job = _found(coordinator, request)
    coordinator.stop(job, rescale_to=body.parallelism)
    return _view(coordinator, *coordinator.record(job))


def _cancel(coordinator: Coordinator, request: Request, body: EmptyBody) -> JobView:
    job = _found(coordinator, request)
    coordinator.cancel(job)
    return _view(coordinator, *coordinator.record(job))


def _openapi(coordinator: Coordinator, request: Request, body: None) -> dict[str, Any]:
    return openapi()


ROUTES = (
    RouteSpec("GET", "/v1/cluster", _cluster, "Slots and version", ClusterView),
    RouteSpec("GET", "/v1/jobs", _list, "All jobs", list[JobView]),
    RouteSpec("POST", "/v1/jobs", _submit, "Run a job", JobView, SubmitBody, 201),
    RouteSpec("GET", "/v1/jobs/{job}", _show, "A job, by id or name", JobView),
    RouteSpec("GET", "/v1/jobs/{job}/logs", _logs, "A part of a job's log, from ?offset=", LogView),
    RouteSpec("POST", "/v1/jobs/{job}/savepoints", _savepoint, "Write a savepoint", JobView, SavepointBody, 202),
    RouteSpec("POST", "/v1/jobs/{job}/stop", _stop, "Stop with a last checkpoint", JobView, StopBody, 202),
    RouteSpec("POST", "/v1/jobs/{job}/cancel", _cancel, "End without a checkpoint", JobView, EmptyBody, 202),
    RouteSpec("POST", "/v1/jobs/{job}/rescale", _rescale, "Go on at another parallelism", JobView, RescaleBody, 202),
    RouteSpec("GET", "/v1/openapi.json", _openapi, "This description", dict[str, Any]),
)


def make_app(coordinator: Coordinator, token: str, hosts: frozenset[str]) -> ASGIApp:
    """The server's application.

    Args:
        coordinator: Does the work.
        token: That everybody has to show.
        hosts: What the Host header may say.
    """
    by_path: dict[str, dict[str, RouteSpec]] = {}
    for spec in ROUTES:
        by_path.setdefault(spec.path, {})[spec.method] = spec
    routes = [Route(path, _Endpoint(coordinator, specs)) for path, specs in by_path.items()]
    return Guard(Starlette(routes=routes, exception_handlers={404: _not_found}), token, hosts)


class _Endpoint:
    """All methods of a path. An object and not a function: Starlette would answer HEAD by itself for those."""

    def __init__(self, coordinator: Coordinator, specs: dict[str, RouteSpec]) -> None:
        self._coordinator = coordinator
        self._specs = specs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        spec = self._specs.get(request.method)
        if spec is None:
            problem = Problem(f"{request.method[:20]} is not for this path", f"it takes {', '.join(self._specs)}")
            response = _json(405, problem)
            response.headers["Allow"] = ", ".join(self._specs)
        else:
            response = await self._answer(spec, request)
        await response(scope, receive, send)

    async def _answer(self, spec: RouteSpec, request: Request) -> Response:
        try:
            body = await _body(request, spec.body) if spec.body is not None else None
            found = await run_in_threadpool(spec.handler, self._coordinator, request, body)
            return _json(spec.status, found)
        except RefusedError as error:
            return _json(error.status, error.problem)
        except ConfigError as error:
            return _json(409, Problem(error.message, error.hint))
        except LakewardError as error:
            log.error("%s %s: %s", request.method, request.url.path, error)
            return _json(503, Problem(error.message, error.hint))


async def _body(request: Request, kind: type[msgspec.Struct]) -> msgspec.Struct:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(415, "the body has to be JSON", "Content-Type: application/json")
    data = b""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in request.stream():
                data += part
                if len(data) > BODY_BYTES_MAX:
                    raise RefusedError(413, f"the body is longer than {BODY_BYTES_MAX} bytes")
    except TimeoutError as error:
        raise RefusedError(408, "the body came too slowly") from error
    try:
        decoded: msgspec.Struct = msgspec.json.decode(data or b"{}", type=kind)
        return decoded
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(400, f"the body is not what this route takes: {str(error)[:300]}") from error


class Guard:
    """Lets nobody in without the token, from another site, or by another name of this host."""

    def __init__(self, app: ASGIApp, token: str, hosts: frozenset[str]) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        refused = self._problem(scope["headers"])
        if refused is not None:
            await _json(*refused)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _problem(self, headers: list[tuple[bytes, bytes]]) -> tuple[int, Problem] | None:
        named: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            named.setdefault(name.lower(), []).append(value)
        host = named.get(b"host", [])
        if len(host) != 1 or host[0].decode("latin-1").lower() not in self._hosts:
            return 403, Problem("this host is not called so", f"call it {' or '.join(sorted(self._hosts))}")
        origins = named.get(b"origin", []) + named.get(b"referer", [])
        site = named.get(b"sec-fetch-site", [])
        if origins or any(one not in (b"none", b"same-origin") for one in site):
            return 403, Problem("this is not for browsers")
        given = named.get(b"authorization", [])
        if len(given) != 1 or not self._is_token(given[0]):
            return 401, Problem("the token is missing or wrong", "Authorization: Bearer TOKEN, from the file 'token'")
        return None

    def _is_token(self, given: bytes) -> bool:
        scheme, _, token = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)


async def _not_found(request: Request, error: Exception) -> Response:
    return _json(404, Problem("there is no such path", "see /v1/openapi.json"))


def _json(status: int, content: Any) -> Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Connection": "close"}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def openapi() -> dict[str, Any]:
    """The description of the API, as OpenAPI 3.1."""
    kinds = [spec.answer for spec in ROUTES] + [spec.body for spec in ROUTES if spec.body] + [Problem]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schema_of = {str(kind): schema for kind, schema in zip(kinds, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for spec in ROUTES:
        paths.setdefault(spec.path, {})[spec.method.lower()] = _operation(spec, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lakeward session cluster", "version": __version__},
        "security": [{"token": []}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(spec: RouteSpec, schema_of: dict[str, Any]) -> dict[str, Any]:
    def content(kind: Any) -> dict[str, Any]:
        return {"application/json": {"schema": schema_of[str(kind)]}}

    problems = {401: "no token", 403: "not from here", 409: "not in this state", 503: "a store has failed"}
    problems |= {404: "no such job"} if "{job}" in spec.path else {}
    problems |= {400: "no such body", 413: "too long", 415: "not JSON", 408: "too slow"} if spec.body else {}
    problems |= {400: "no such offset"} if spec.path.endswith("/logs") else {}
    answers = {str(spec.status): {"description": spec.summary, "content": content(spec.answer)}}
    answers |= {str(status): {"description": why, "content": content(Problem)} for status, why in problems.items()}
    operation: dict[str, Any] = {"summary": spec.summary, "responses": answers, "parameters": []}
    if "{job}" in spec.path:
        operation["parameters"].append({"name": "job", "in": "path", "required": True, "schema": {"type": "string"}})
    if spec.path.endswith("/logs"):
        offset = {"name": "offset", "in": "query", "schema": {"type": "integer"}}
        operation["parameters"].append(offset)
    if spec.body is not None:
        operation["requestBody"] = {"required": True, "content": content(spec.body)}
    return operation
