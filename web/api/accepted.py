"""Query parameters that no operation takes are refused by name, once for all endpoints."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from web.api.document import Operation
from web.problem import ItemError, Kind, ProblemError

LISTED_MAX = 20
NAME_MAX = 64


def described_parameters(operations: Iterable[Operation]) -> Middleware:
    """Middleware: 400 for a parameter that its operation does not describe, or that comes twice.

    A misspelt bound would else be an answer to another question. What is not described (the
    page, questions among workers) takes what it takes.
    """
    accepted = {
        (each.method.upper(), each.path): tuple(p.name for p in each.params if p.where == "query")
        for each in operations
    }

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        if request.query and resource is not None:
            method = "GET" if request.method == "HEAD" else request.method
            names = accepted.get((method, resource.canonical))
            errors = [] if names is None else _errors(request, names)
            if errors:
                first = errors[0]
                raise ProblemError(
                    Kind.INVALID, f"parameter {first.field}: {first.reason}", errors=errors
                )
        return await handler(request)

    return check


def _errors(request: web.Request, names: tuple[str, ...]) -> list[ItemError]:
    known = f"accepted here: {', '.join(names)}" if names else "none is accepted here"
    errors = []
    for name in list(dict.fromkeys(request.query))[:LISTED_MAX]:
        if name not in names:
            errors.append(ItemError(0, name[:NAME_MAX], f"is not known; {known}"))
        elif len(request.query.getall(name)) > 1:
            errors.append(ItemError(0, name, "is given more than once"))
    return errors
