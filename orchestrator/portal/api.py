"""The REST API: every operation that a token can be good for, at an address of its own.

Nothing is decided here. Each route hands its arguments and the caller's token to the authority, which knows whose the
token is and what it is good for. A cookie counts for nothing, so no page elsewhere can have a browser ask (CSRF).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Protocol, get_type_hints

from fastapi import Body, FastAPI, Path, Query, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic_core import to_jsonable_python
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from orchestrator.errors import BulleError, InputError, LoginError, NotFoundError, to_wire
from orchestrator.governance.authority import MAX_BODY, BodyLimit
from orchestrator.governance.operations import OPERATIONS, Operation
from orchestrator.governance.rules import DECISIONS
from orchestrator.portal.hub import PREFIX

#: where the API is mounted in the portal
MOUNT = "/api/v1"
_FIELD = re.compile(r"\{(\w+)\}")
_NAME = r"^[A-Za-z0-9._~-]+$"
_BEARER = re.compile(r"[Bb]earer ([A-Za-z0-9_-]{1,200})")
_NEEDED = inspect.Parameter.empty
_NO_ARGUMENTS = (b"", b"{}")


class Fault(BaseModel):
    """Why something was not done."""

    code: Annotated[str, Field(description="Stable: refused, not-found, conflict, input, login, second-person…")]
    message: Annotated[str, Field(description="What was wrong, in English")]
    hint: Annotated[str | None, Field(description="What to do about it")]


_FAULTS: Mapping[int, str] = {
    202: "Noted: it takes effect when a second person decides the same",
    401: "There is no token, or it is worth nothing",
    403: "A rule forbids it, or the token lacks the scope; the message names the rule",
    404: "There is no such thing",
    409: "It is there already, or something else was changed at the same time",
    422: "A field is unknown, missing or malformed",
    503: "A service that is needed does not answer; nothing was changed",
}


class Authority(Protocol):
    """The authority, as the API needs it."""

    async def perform(self, name: str, arguments: Mapping[str, Any], *, token: str | None = None) -> Any:
        """What the operation answers. Raises BulleError."""


class _Authenticated(APIRoute):
    """A route that wants a token before it reads anything else."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As FastAPI has it."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            request.state.token = _token(request)
            return await handle(request)

        return guarded


def _token(request: Request) -> str:
    told = request.headers.getlist("authorization")
    found = _BEARER.fullmatch(told[0]) if len(told) == 1 else None
    if found is None:
        raise LoginError("this needs an API token", hint="Authorization: Bearer bulle_…")
    return found.group(1)


def api(authority: Authority, operations: Mapping[str, Operation] = OPERATIONS) -> FastAPI:
    """The ASGI application. It describes itself at ``/openapi.json``."""
    app = FastAPI(
        title="Bulle",
        version="1",
        summary="What a person can do and read, with a token of theirs",
        description="A token is made on the account's page. See docs/api.md.",
        servers=[{"url": PREFIX.rstrip("/") + MOUNT}],
        root_path_in_servers=False,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.router.route_class = _Authenticated
    app.add_middleware(BodyLimit, limit=MAX_BODY)
    app.add_exception_handler(BulleError, _fault)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_such_route)
    # A path of words before one with a field in the same place: /projects/mine is not the project 'mine'.
    for operation in sorted(operations.values(), key=lambda one: _FIELD.sub("~", one.path)):
        if operation.scope is not None:
            _add(app, authority, operation)
    return app


def _add(app: FastAPI, authority: Authority, operation: Operation) -> None:
    in_path, rest = parts(operation)

    async def answer(request: Request, **given: Any) -> Response:
        # Stops: a misspelt or hidden argument that is dropped unseen (mass assignment). Shown by
        # tests/unit/portal/test_api.py.
        body = await request.body()
        if rest is None and (request.query_params or body not in _NO_ARGUMENTS):
            raise InputError(f"{operation.name} takes no other arguments than those in its path")
        if rest is not None and (body if _in_query(operation) else request.query_params):
            raise InputError(
                f"{operation.name} takes its arguments in {'the query' if _in_query(operation) else 'JSON'}"
            )
        arguments = {name: given[name] for name in in_path}
        if rest is not None:
            arguments |= given["rest"].model_dump(exclude_unset=True)
        told = await authority.perform(
            operation.name, to_jsonable_python(arguments, inf_nan_mode="constants"), token=request.state.token
        )
        if operation.answer is None:
            return Response(status_code=204)
        return Response(operation.adapter.dump_json(told), media_type="application/json")

    parameters = [inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Request)]
    parameters += [_parameter(name, Annotated[hint, _in_path(operation, name)]) for name, hint in in_path.items()]
    if rest is not None:
        hint = Annotated[rest, Query() if _in_query(operation) else Body()]  # type: ignore[valid-type]
        optional = not any(field.is_required() for field in rest.model_fields.values())
        # A body may be left out where nothing in it is needed.
        parameters.append(_parameter("rest", hint, rest() if optional and not _in_query(operation) else _NEEDED))
    answer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app.add_api_route(
        operation.path,
        answer,
        methods=[operation.method],
        operation_id=operation.name,
        name=operation.name,
        summary=operation.summary,
        description=f"Needs a token with the scope `{operation.scope}`.",
        tags=[operation.name.split(".")[0]],
        status_code=204 if operation.answer is None else 200,
        response_model=operation.answer,
        responses={status: {"model": Fault, "description": _FAULTS[status]} for status in statuses(operation)},
        dependencies=[Security(HTTPBearer(scheme_name="token", auto_error=False))],
    )


def parts(operation: Operation) -> tuple[dict[str, Any], type[BaseModel] | None]:
    """The types of the arguments that stand in the path, and a model of the others; None where there are none."""
    hints = get_type_hints(operation.arguments, include_extras=True)
    fields = operation.arguments.model_fields
    named = _FIELD.findall(operation.path)
    others: dict[str, Any] = {
        name: (hints[name], ... if field.is_required() else field.get_default(call_default_factory=True))
        for name, field in fields.items()
        if name not in named
    }
    if not others:
        return {name: hints[name] for name in named}, None
    title = "".join(word.title() for word in re.split(r"[.-]", operation.name))
    rest = create_model(f"{title}Arguments", __config__=ConfigDict(extra="forbid", frozen=True), **others)
    return {name: hints[name] for name in named}, rest


def statuses(operation: Operation) -> list[int]:
    """With which statuses the operation may be answered, besides that of success."""
    told = [401, 403, 404, 422, 503]
    if not operation.reads:
        told.append(409)
    if operation.name in {str(action) for action in DECISIONS}:
        told.append(202)
    return sorted(told)


def _in_path(operation: Operation, name: str) -> Any:
    # Everything that has a name here is called so: slugs, datasets, persons, passkeys, tokens.
    return Path(pattern=_NAME) if operation.arguments.model_fields[name].annotation is str else Path()


def _in_query(operation: Operation) -> bool:
    return operation.method in ("GET", "DELETE")


def _parameter(name: str, annotation: Any, default: Any = _NEEDED) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _told(error: BulleError, status: int | None = None, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # What the caller can do nothing about is one thing to them: it was not done, and may be tried later.
    status = status or (error.http_status if error.http_status < HTTPStatus.INTERNAL_SERVER_ERROR else 503)
    return JSONResponse(to_wire(error), status, headers=headers)


async def _fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, BulleError)  # noqa: S101 - registered for these
    if not isinstance(error, LoginError):
        return _told(error)
    # RFC 6750, section 3
    why = ', error="invalid_token"' if hasattr(request.state, "token") else ""
    return _told(error, headers={"WWW-Authenticate": f'Bearer realm="bulle"{why}'})


async def _invalid(request: Request, error: Exception) -> Response:
    # The places only: the values were not understood, and may be anything.
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    places = "; ".join(f"{'.'.join(map(str, fault['loc']))[:80]}: {fault['msg']}" for fault in faults[:5])
    return _told(InputError(f"the request is malformed: {places[:500]}"))


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    if status in (404, 405):
        told = "there is no such address" if status == 404 else "this address does not take this method"
        return _told(NotFoundError(told), status, headers)
    return _told(InputError(f"the request is malformed (status {status})"))
