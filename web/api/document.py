"""The OpenAPI 3.1 document, built from the list of operations. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec

OPENAPI: Final = "3.1.0"
PROBLEM: Final = "Problem"

Schema = Mapping[str, Any]

TEXT: Final[Schema] = {"type": "string"}
INTEGER: Final[Schema] = {"type": "integer", "minimum": 0}


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter in the path (always required) or in the query."""

    name: str
    about: str
    schema: Schema = field(default_factory=lambda: TEXT)
    where: Literal["path", "query", "header"] = "query"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path.

    ``answers`` are the statuses besides the problems any request may meet; ``answer`` is
    the type of a success (a tuple: one of these, None: said by ``about`` alone), ``headers`` what
    it tells beside its body; ``body`` the schema of what is sent, by content type, gzip accepted.
    ``admin`` operations need the bearer token.
    """

    method: Literal["get", "post", "put", "delete"]
    path: str
    tag: str
    about: str
    params: tuple[Param, ...] = ()
    answers: tuple[int, ...] = (200, 400, 503)
    answer: Any = None
    body: Mapping[str, Schema] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content: str = "application/json"
    admin: bool = False


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457 problem details; ``errors`` names fields, with the place of their item."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, Any]] = []


def document(
    operations: Iterable[Operation], version: str, servers: Iterable[str] = ()
) -> dict[str, Any]:
    """The whole document, ready to be encoded as JSON."""
    listed = list(operations)
    types = list({id(t): t for each in listed for t in _types(each)}.values())
    schemas, components = msgspec.json.schema_components(
        [Problem, *types], ref_template="#/components/schemas/{name}"
    )
    of_type = dict(zip(map(id, types), schemas[1:], strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in listed:
        paths.setdefault(each.path, {})[each.method] = _operation(each, of_type)
    return {
        "openapi": OPENAPI,
        "info": {
            "title": "Headrace",
            "version": version,
            "description": "Ingest of events, and interactive queries of their state.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": url} for url in servers],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"admin": {"type": "http", "scheme": "bearer"}},
        },
    }


def _types(each: Operation) -> tuple[Any, ...]:
    if each.answer is None:
        return ()
    return each.answer if isinstance(each.answer, tuple) else (each.answer,)


def _operation(each: Operation, of_type: Mapping[int, Schema]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": _name(each),
        "tags": [each.tag],
        "summary": each.about.split(". ")[0].rstrip("."),
        "description": each.about,
        "parameters": [_param(param) for param in (*each.params, *_of_body(each))],
        "responses": {
            str(status): _response(each, status, of_type)
            for status in sorted({*each.answers, HTTPStatus.BAD_REQUEST})
        },
    }
    if each.body is not None:
        made["requestBody"] = {
            "required": True,
            "content": {content: {"schema": schema} for content, schema in each.body.items()},
        }
    if each.admin:
        made["security"] = [{"admin": []}]
    return made


def _of_body(each: Operation) -> tuple[Param, ...]:
    if each.body is None:
        return ()
    about = "gzip: the body is compressed. What it expands to counts for its limit"
    return (Param("Content-Encoding", about, {"type": "string", "enum": ["gzip"]}, "header"),)


def _name(each: Operation) -> str:
    words = [word.strip("{}").replace("-", "_") for word in each.path.split("/") if word]
    return "_".join([each.method, *words]) if words else f"{each.method}_root"


def _param(param: Param) -> dict[str, Any]:
    return {
        "name": param.name,
        "in": param.where,
        "required": param.where == "path",
        "description": param.about,
        "schema": param.schema,
    }


def _response(each: Operation, status: int, of_type: Mapping[int, Schema]) -> dict[str, Any]:
    made: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if status >= HTTPStatus.BAD_REQUEST:
        schema: Schema = {"$ref": f"#/components/schemas/{PROBLEM}"}
        made["content"] = {"application/problem+json": {"schema": schema}}
    elif status != HTTPStatus.SWITCHING_PROTOCOLS:
        schemas = [of_type[id(one)] for one in _types(each)]
        schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
        if each.content != "application/json":
            schema = TEXT
        made["content"] = {each.content: {"schema": schema}}
        if each.headers:
            made["headers"] = {
                name: {"schema": TEXT, "description": about} for name, about in each.headers.items()
            }
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        made["headers"] = {"Retry-After": {"schema": INTEGER, "description": "Seconds to wait"}}
    return made
