"""Apache Kafka's jars: resolved once from Maven Central, then read from a list.

The jars live in the usual Maven cache, shared by every checkout; the state folder keeps
only their paths and sizes, so a later start needs neither jgo nor the network.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

KAFKA = "org.apache.kafka:kafka_2.13:4.2.1"
"""Not 4.3.0 to 4.4.0: they lose the end of transactions when a killed broker comes back."""

Progress = Callable[[str], None]


def classpath(index: Path, *, progress: Progress) -> list[Path]:
    """Jars of :data:`KAFKA`, from ``index`` when every file it lists is still there and whole.

    Otherwise they are resolved from the Maven cache (``M2_REPO`` or ``~/.m2/repository``)
    and Maven Central, and the list is written. Raises :class:`~app.broker.errors.DownloadError`.
    """
    known = read_index(index)
    if known is not None:
        return known
    from app.broker.download import resolve  # noqa: PLC0415 - jgo is half of a warm start

    jars = resolve(KAFKA, progress)
    write_index(index, jars)
    return jars


def read_index(index: Path) -> list[Path] | None:
    """The listed jars, or None when the list is of another Kafka or a jar is gone or cut."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        if content["artifact"] != KAFKA:
            return None
        jars = [(Path(path), int(size)) for path, size in content["jars"]]
        whole = all(path.stat().st_size == size for path, size in jars)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [path for path, _ in jars] if whole and jars else None


def write_index(index: Path, jars: list[Path]) -> None:
    """Remember the jars, atomically."""
    text = json.dumps({"artifact": KAFKA, "jars": [[str(j), j.stat().st_size] for j in jars]})
    staged = index.with_suffix(".new")
    staged.write_text(text, encoding="utf-8")
    staged.replace(index)
