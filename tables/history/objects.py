"""History in a bucket of an object store: S3, and whatever speaks like it.

An object is there whole or not at all, and replacing one by the same rows changes nothing, so
what a folder does by links and renames is one PUT here. Every call ends: after
:data:`REQUEST_S` without a byte, at most :data:`ATTEMPTS` times.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from tables.history.datasets import Dataset
from tables.history.duck import open_duck
from tables.history.names import ASIDE, HistoryFile, listed_file
from tables.history.place import Bucket, cause
from tables.history.store import Fill, Parameter, Scan, Stat, StoreError

REQUEST_S: Final = 5.0
CONNECT_S: Final = 2.0
ATTEMPTS: Final = 2
REFUSALS: Final = (
    "NO_SUCH_BUCKET",
    "ACCESS_DENIED",
    "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID",
    "MISSING_AUTHENTICATION_TOKEN",
)
"""Answers that stay the same until somebody changes something."""
_FORMAT: Final = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)


@lru_cache(maxsize=8)
def _client(bucket: Bucket) -> fs.S3FileSystem:
    """The client; credentials it takes from where AWS's tools take them."""
    return fs.S3FileSystem(
        region=bucket.region,
        endpoint_override=bucket.endpoint,
        connect_timeout=CONNECT_S,
        request_timeout=REQUEST_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        # A file of usual size is one request then, which cannot end half-way.
        allow_delayed_open=True,
    )


def refusal(bucket: Bucket) -> str | None:
    """Why the bucket cannot be used until somebody changes something; None: it can, or may soon.

    Asks the store. Raises :class:`StoreError` when it does not answer.
    """
    try:
        with _asking(bucket):
            _listed(bucket, bucket.path, recursive=False)
    except StoreError as exc:
        answer = str(exc)
        if "NO_SUCH_BUCKET" in answer:
            return f"{answer}: create the bucket {bucket.name}, or correct HEADRACE_HISTORY"
        if any(code in answer for code in REFUSALS):
            return (
                f"{answer}: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and "
                f"AWS_ENDPOINT_URL, and that they may list, read, write and delete there"
            )
        raise
    return None


@dataclass(frozen=True, slots=True)
class DatasetObjects:
    """Objects of one dataset of one namespace; see :class:`tables.history.store.DatasetStore`."""

    bucket: Bucket
    namespace: str
    dataset: Dataset

    @property
    def path(self) -> str:
        """Bucket and prefix of the objects."""
        return f"{self.bucket.path}/{self.namespace or 'default'}/{self.dataset.name}"

    def where(self, file: HistoryFile) -> str:
        """The object's URL."""
        return f"s3://{self._key(file)}"

    def files(self) -> list[HistoryFile]:
        """Every object by its name."""
        return list(self._all())

    def aside(self) -> list[HistoryFile]:
        """Objects that were set aside."""
        return list(self._all(ASIDE))

    def stats(self, files: Sequence[HistoryFile]) -> dict[HistoryFile, Stat]:
        """Of those that are there."""
        found = self._all()
        return {file: found[file] for file in files if file in found}

    def stat(self, file: HistoryFile) -> Stat:
        """Of one object."""
        with _asking(self.bucket):
            info = _client(self.bucket).get_file_info(self._key(file))
        if info.type != fs.FileType.File:
            raise FileNotFoundError(f"{self.where(file)} is not there")
        return Stat(info.size, info.mtime_ns)

    @contextlib.contextmanager
    def opened(self, file: HistoryFile) -> Iterator[pa.PythonFile]:
        """Its bytes, fetched range by range."""
        with _asking(self.bucket):
            source = _client(self.bucket).open_input_file(self._key(file))
        with source:
            yield pa.PythonFile(_Ranges(source, self.bucket), mode="r")

    def put(self, file: HistoryFile, fill: Fill) -> None:
        """Make the object in memory, and send it once it is whole."""
        made = pa.BufferOutputStream()
        fill(made)
        content = made.getvalue()
        with (
            _asking(self.bucket),
            _client(self.bucket).open_output_stream(self._key(file)) as sink,
        ):
            # In one go: closing a stream of which a part is missing would complete it.
            sink.write(content)

    def remove(self, file: HistoryFile) -> None:
        """Remove an object."""
        with _asking(self.bucket):
            _client(self.bucket).delete_file(self._key(file))

    def set_aside(self, file: HistoryFile) -> None:
        """Copy it to a name that nobody reads, then remove it."""
        key = self._key(file)
        with contextlib.suppress(FileNotFoundError), _asking(self.bucket):
            _client(self.bucket).move(key, key + ASIDE)

    def sweep(self, _now_ms: int) -> int:
        """Nothing: what was not sent to its end is no object."""
        return 0

    def scan(self, duck: duckdb.DuckDBPyConnection) -> Scan:
        """What pyarrow fetches: the columns and row groups that DuckDB asks for."""
        numbers = itertools.count()

        def source(files: Sequence[HistoryFile]) -> tuple[str, list[Parameter]]:
            name = f"objects_{next(numbers)}"
            found = ds.dataset(
                [self._key(file) for file in files],
                schema=self.dataset.schema,
                format=_FORMAT,
                filesystem=_client(self.bucket),
            )
            duck.register(name, found)
            return name, []

        return source

    @contextlib.contextmanager
    def duck(self, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
        """A database that reads no file, and spills into a folder of its own."""
        with (
            tempfile.TemporaryDirectory(prefix="headrace-history-") as spill,
            open_duck(None, threads=threads, spill=Path(spill)) as connection,
        ):
            yield connection

    def _key(self, file: HistoryFile) -> str:
        return f"{self.path}/{file.path}"

    def _all(self, ending: str = "") -> dict[HistoryFile, Stat]:
        with _asking(self.bucket):
            infos = _listed(self.bucket, self.path, recursive=True)
        found = {}
        for info in infos:
            folder, _, name = info.path.removeprefix(f"{self.path}/").partition("/")
            file = listed_file(folder, name, ending)
            if file is not None and info.type == fs.FileType.File:
                found[file] = Stat(info.size, info.mtime_ns)
        return found


class _Ranges(io.RawIOBase):
    """Bytes of an object. What fails here is the store, not what reads the bytes."""

    def __init__(self, source: pa.NativeFile, bucket: Bucket) -> None:
        super().__init__()
        self._source = source
        self._bucket = bucket

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._source.seek(offset, whence))

    def tell(self) -> int:
        return int(self._source.tell())

    def read(self, size: int = -1) -> bytes:
        with _asking(self._bucket):
            return bytes(self._source.read(None if size < 0 else size))


@contextlib.contextmanager
def _asking(bucket: Bucket) -> Iterator[None]:
    """What the client raises, told as :class:`StoreError` without the server's own words."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as exc:
        text = cause(str(exc))
        if "NO_SUCH_KEY" in text:
            raise FileNotFoundError(f"{bucket}: {text}") from None
        raise StoreError(f"{bucket}: {text}") from None


def _listed(bucket: Bucket, path: str, *, recursive: bool) -> list[fs.FileInfo]:
    """Nothing where nothing lies; a bucket that is not there is an error."""
    try:
        found: list[fs.FileInfo] = _client(bucket).get_file_info(
            fs.FileSelector(path, recursive=recursive)
        )
    except FileNotFoundError:
        return []
    return found
