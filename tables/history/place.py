"""Where the history lies: a folder, or a bucket of an object store. Pure; knows no client."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit

EXPECTED: Final = "expected a folder or s3://bucket/prefix"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_PART: Final = re.compile(r"[A-Za-z0-9_.=-]{1,200}", re.ASCII)
_AWS: Final = re.compile(
    r"AWS Error (?P<code>[A-Za-z_0-9]+)(?: \(HTTP status (?P<status>\d+)\))?"
    r" during (?P<call>\w+)"
)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket and the prefix of its objects (without slashes at its ends; may be empty).

    ``endpoint`` is the store's URL, None: that of AWS; ``region`` None: as the client finds it.
    Credentials are the client's own business: it takes them from the environment.
    """

    name: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None

    def __str__(self) -> str:
        return f"s3://{self.path}"

    @property
    def path(self) -> str:
        """Bucket and prefix, as clients want them."""
        return f"{self.name}/{self.prefix}".rstrip("/")


Place: TypeAlias = Path | Bucket


def read_place(text: str) -> Place:
    """A folder, or the bucket of an ``s3://`` URL. Raises :class:`ValueError`."""
    if "://" not in text:
        return Path(text)
    try:
        url = urlsplit(text)
    except ValueError as exc:
        raise ValueError(EXPECTED) from exc
    if url.scheme != "s3":
        raise ValueError(EXPECTED)
    if "@" in url.netloc:
        raise ValueError(
            "credentials do not belong into the URL: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    if url.query or url.fragment:
        raise ValueError(f"{EXPECTED}, without ? and #: the endpoint goes into AWS_ENDPOINT_URL")
    if _BUCKET.fullmatch(url.netloc) is None:
        raise ValueError(f"{EXPECTED}: a bucket's name is 3 to 63 of a-z, 0-9, '.' and '-'")
    parts = url.path.strip("/").split("/") if url.path.strip("/") else []
    if any(_PART.fullmatch(part) is None or part in {".", ".."} for part in parts):
        raise ValueError(f"{EXPECTED}: a prefix has letters, digits and _ . = - between slashes")
    return Bucket(url.netloc, "/".join(parts))


def read_endpoint(text: str) -> str:
    """The URL of an S3-compatible store. Raises :class:`ValueError` that does not repeat it."""
    try:
        url = urlsplit(text)
        sound = url.scheme in {"http", "https"} and url.hostname and url.port != 0
    except ValueError:
        sound = False
    if not sound or "@" in url.netloc or url.path.strip("/") or url.query or url.fragment:
        raise ValueError("expected http://host:port or https://host:port, and nothing else")
    return f"{url.scheme}://{url.netloc}"


def cause(text: str) -> str:
    """What went wrong, of an error's text, in one line.

    Of an answer of an object store its code and the call only: the rest is the server's, and
    nobody knows what it repeats.
    """
    found = _AWS.search(text)
    if found is None:
        return text.partition("\n")[0][:200]
    status = "" if found["status"] is None else f" (HTTP status {found['status']})"
    return f"{found['code']}{status} during {found['call']}"
