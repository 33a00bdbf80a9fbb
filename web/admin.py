"""Who may make administrative calls: whoever has the token of the settings."""

from __future__ import annotations

import hmac

from aiohttp import web
from pydantic import SecretStr

from web.problem import Kind, ProblemError


def require_admin(request: web.Request, token: SecretStr | None) -> None:
    """Return if the request carries ``Authorization: Bearer <token>``.

    401 without a bearer token, 403 with another one and while no token is set. Compared
    in constant time, so that the time of an answer tells nothing of the token.
    """
    secret = "" if token is None else token.get_secret_value()
    if not secret:
        raise ProblemError(
            Kind.NOT_ADMIN, "administrative calls are off: set HEADRACE_ADMIN_TOKEN and restart"
        )
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise ProblemError(Kind.UNAUTHORIZED, "send Authorization: Bearer <HEADRACE_ADMIN_TOKEN>")
    if not hmac.compare_digest(given.strip().encode("utf-8", "replace"), secret.encode()):
        raise ProblemError(Kind.NOT_ADMIN, "this is not the token of HEADRACE_ADMIN_TOKEN")
