"""The live page: the files it is made of, and the routes that serve exactly those.

The page is plain ES modules, served as they are. The only foreign code is uPlot and, for
the API's page, Swagger UI; both are pinned in ``package-lock.json`` and put under
``node_modules`` by ``python -m web.page.install``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aiohttp import web

PAGE: Final = Path(__file__).resolve().parent
LIBRARIES: Final = PAGE / "node_modules"

OWN_FILES: Final = (
    "app.js",
    "charts.js",
    "endpoints.js",
    "favicon.svg",
    "format.js",
    "order.js",
    "points.js",
    "socket.js",
    "style.css",
)
LIBRARY_FILES: Final = (
    "uplot/dist/uPlot.esm.js",
    "uplot/dist/uPlot.min.css",
    "swagger-ui-dist/swagger-ui.css",
    "swagger-ui-dist/swagger-ui-bundle.js",
)

NOT_INSTALLED: Final = (
    "The page's libraries are not installed on this worker.\n"
    "Run this in the checkout, then reload:\n\n"
    "    python -m web.page.install\n"
)

_HEADERS: Final = {
    # uPlot styles its elements through the CSSOM, which needs no 'unsafe-inline'; 'self'
    # covers ws: and wss: of the page's own origin.
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; object-src 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Kept by the browser but asked about each time (304 by ETag): an upgraded worker must
    # not meet last week's script.
    "Cache-Control": "no-cache",
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def page_routes(libraries: Path = LIBRARIES) -> list[web.RouteDef]:
    """Routes of the page: ``/``, ``/static/<own file>`` and ``/static/lib/<library file>``.

    One route for each file, so nothing else under the folders can be reached. ``/`` answers
    503 with the command to run while a library file is missing. ``libraries`` is the
    ``node_modules`` folder the library files are read from.
    """
    wanted = [libraries / name for name in LIBRARY_FILES]
    routes = [web.get("/", _index(PAGE / "static" / "index.html", wanted))]
    routes += [file_route(f"/static/{name}", PAGE / "static" / name) for name in OWN_FILES]
    routes += [file_route(f"/static/lib/{name}", libraries / name) for name in LIBRARY_FILES]
    return routes


def _index(page: Path, wanted: list[Path]) -> _Handler:
    def installed() -> bool:
        return all(path.is_file() for path in wanted)

    async def index(_request: web.Request) -> web.StreamResponse:
        if not installed():
            headers = _HEADERS | {"Cache-Control": "no-store"}
            return web.Response(status=503, text=NOT_INSTALLED, headers=headers)
        return web.FileResponse(page, headers=_HEADERS)

    return index


def file_route(address: str, path: Path) -> web.RouteDef:
    """A route that serves one file."""

    async def file(_request: web.Request) -> web.StreamResponse:
        return web.FileResponse(path, headers=_HEADERS)

    return web.get(address, file)
