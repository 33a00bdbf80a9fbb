"""Headrace: the Faust application (``faust -A app worker``).

Importing the package builds nothing; the application is built when ``app.app`` is first
asked for, so that ``app.engine`` and ``app.models`` stay importable on their own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import faust

__all__ = ["app"]


def __getattr__(name: str) -> faust.App:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Faust's command line finds this package in the working directory without adding that
    # to the path, where the sibling packages are looked for.
    checkout = str(Path(__file__).resolve().parent.parent)
    if checkout not in sys.path:
        sys.path.insert(0, checkout)
    from app.main import build  # noqa: PLC0415 - see the module's docstring

    built = globals()["app"] = build()
    return built
