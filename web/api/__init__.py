"""The API described: ``/api/openapi.json``, and a page to try it at ``/api/docs``.

The page is Swagger UI, served from this worker; nothing is loaded from elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from aiohttp import web

from web.api.document import document
from web.api.operations import OPERATIONS
from web.page import LIBRARIES, NOT_INSTALLED, file_route

DOCUMENT_PATH: Final = "/api/openapi.json"
API_VERSION: Final = "v1"
DOCS_PATH: Final = "/api/docs"
STATIC: Final = Path(__file__).resolve().parent / "static"
OWN_FILES: Final = ("docs.js",)

_HEADERS: Final = {
    # Swagger UI sets styles and shows icons from data: URLs; scripts are this worker's alone.
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def api_routes(libraries: Path = LIBRARIES) -> list[web.RouteDef]:
    """Routes of the document and of its page."""
    body = msgspec.json.encode(document(OPERATIONS, API_VERSION))

    async def openapi(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async def docs(_request: web.Request) -> web.StreamResponse:
        if not (libraries / "swagger-ui-dist" / "swagger-ui.css").is_file():
            return web.Response(status=503, text=NOT_INSTALLED, headers=_HEADERS)
        return web.FileResponse(STATIC / "docs.html", headers=_HEADERS)

    return [
        web.get(DOCUMENT_PATH, openapi),
        web.get(DOCS_PATH, docs),
        *(file_route(f"{DOCS_PATH}/{name}", STATIC / name) for name in OWN_FILES),
    ]
