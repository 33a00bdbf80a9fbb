"""Configuration folders that benchmarks run workers with (``HEADRACE_CONFIG``)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from app.settings import CONFIG_DIR

SHIPPED, ONE_WINDOW = "shipped", "one-window"
"""What benchmarks call the configuration that ships, and that of :func:`one_window`."""

_REQUESTS: dict[str, Any] = {
    "name": "requests_per_endpoint",
    "topic": "log-events",
    "kind": "tumbling",
    "size": "60s",
    "grace": "30s",
    "key": "endpoint",
    "value": "latency_ms",
    "errors": {"status_min": 500},
}
_MORE: list[dict[str, Any]] = [
    {
        "name": "errors_per_endpoint",
        "topic": "log-events",
        "kind": "hopping",
        "size": "5m",
        "advance": "1m",
        "grace": "30s",
        "key": "endpoint",
        "errors": {"status_min": 400},
        "codes": True,
    },
    {
        "name": "trends_per_service",
        "topic": "log-events",
        "kind": "sliding",
        "sizes": ["1m", "5m", "15m"],
        "advance": "10s",
        "grace": "30s",
        "key": "service",
        "value": "latency_ms",
        "errors": {"status_min": 500},
        "global": True,
    },
    {
        "name": "users_per_service",
        "topic": "log-events",
        "kind": "tumbling",
        "size": "5m",
        "grace": "30s",
        "key": "service",
        "distinct": "user_id",
    },
    {
        "name": "requests_per_method",
        "topic": "log-events",
        "kind": "tumbling",
        "size": "60s",
        "grace": "30s",
        "key": "method",
        "value": "latency_ms",
    },
]


def one_window(folder: Path) -> Path:
    """One tumbling window and no sessions: what plain Faust's table does, in windows."""
    return _config(folder / "one-window", [_REQUESTS], {"sessions": []})


def five_windows_and_sessions(folder: Path) -> Path:
    """Tumbling, hopping, sliding and distinct windows, and the sessions that ship."""
    sessions = yaml.safe_load((CONFIG_DIR / "sessions.yaml").read_text(encoding="utf-8"))
    return _config(folder / "five-windows", [_REQUESTS, *_MORE], sessions)


def _config(folder: Path, windows: list[dict[str, Any]], sessions: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "windows.yaml").write_text(yaml.safe_dump({"windows": windows}), encoding="utf-8")
    (folder / "sessions.yaml").write_text(yaml.safe_dump(sessions), encoding="utf-8")
    shutil.copy(CONFIG_DIR / "entities.yaml", folder)
    return folder
