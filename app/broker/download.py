"""Resolving Apache Kafka with jgo, into the usual Maven cache."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from jgo.maven import MavenContext, PythonResolver

from app.broker.errors import DownloadError

if TYPE_CHECKING:
    from jgo.maven import Artifact

    from app.broker.jars import Progress

LOG_BINDING = ("org.apache.logging.log4j", "log4j-slf4j-impl")
"""Kafka declares this jar for its distribution only; without it the broker logs nothing."""


class _Downloads(PythonResolver):
    """jgo's resolver with downloads that are all or nothing and errors that name the artifact.

    jgo writes a download straight into the shared cache, where a broken one would be
    taken for whole ever after; here it arrives beside its place and is moved in.
    """

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._descriptors = 0

    def download(self, artifact: Artifact) -> Path:
        """Fetch one file into the cache; raises :class:`DownloadError`."""
        cache = artifact.context.repo_cache
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".headrace-") as staging:
            beside = MavenContext(
                resolver=self,
                repo_cache=Path(staging),
                remote_repos=artifact.context.remote_repos,
                timeout=artifact.context.timeout,
            )
            component = beside.project(artifact.groupId, artifact.artifactId).at_version(
                artifact.version
            )
            copy = component.artifact(artifact.classifier, artifact.packaging)
            target = cache / component.path_prefix / artifact.cached_filename
            try:
                super().download(copy)
            except RuntimeError as exc:
                raise _failed(artifact, "it is not there") from exc
            except OSError as exc:
                if exc.errno is not None:  # a local file, not the network
                    raise
                raise _failed(artifact, type(exc).__name__) from exc
            target.parent.mkdir(parents=True, exist_ok=True)
            (Path(staging) / component.path_prefix / artifact.cached_filename).replace(target)
        if artifact.packaging == "pom":
            self._descriptors += 1
            if self._descriptors % 20 == 0:
                self._progress(f"resolving Apache Kafka: {self._descriptors} descriptors read")
        return target


def resolve(
    coordinate: str,
    progress: Progress,
    *,
    cache: Path | None = None,
    repositories: Mapping[str, str] | None = None,
) -> list[Path]:
    """Jars of a Kafka ``group:artifact:version`` with all it needs to run, downloaded if absent.

    ``cache`` and ``repositories`` (name -> URL) default to the Maven cache and Maven
    Central. With everything cached the network is not touched.
    Raises :class:`DownloadError` that names the artifact.
    """
    resolver = _Downloads(progress)
    context = MavenContext(
        resolver=resolver,
        repo_cache=cache,
        remote_repos=None if repositories is None else dict(repositories),
        timeout=30,
    )
    progress(f"resolving {coordinate} (about 45 MB from Maven Central, the first time only)")
    try:
        inputs, transitive = resolver.resolve([context.create_dependency(coordinate)])
    except ParseError as exc:
        raise DownloadError(
            f"a descriptor of {coordinate} in the Maven cache {context.repo_cache} is damaged "
            f"({exc}): delete its folder org/apache/kafka and start again"
        ) from exc
    artifacts = [dependency.artifact for dependency in (*inputs, *transitive)]
    core = next(a for a in artifacts if a.artifactId == "log4j-core")
    artifacts.append(context.project(*LOG_BINDING).at_version(core.version).artifact())
    jars: list[Path] = []
    received = 0
    with ThreadPoolExecutor(4, thread_name_prefix="jars") as pool:
        for jar in pool.map(_fetch, artifacts):
            jars.append(jar)
            received += jar.stat().st_size
            if len(jars) % 10 == 0 or len(jars) == len(artifacts):
                progress(f"Apache Kafka: {len(jars)} of {len(artifacts)} jars, {received >> 20} MB")
    return jars


def _fetch(artifact: Artifact) -> Path:
    path = artifact.resolve()
    if not zipfile.is_zipfile(path):
        # Left behind by another program that was stopped while it wrote.
        path.unlink()
        path = artifact.resolve()
    return path


def _failed(artifact: Artifact, reason: str) -> DownloadError:
    return DownloadError(
        f"cannot download {artifact} from {', '.join(artifact.context.remote_repos)} ({reason}): "
        f"check the network (HTTPS_PROXY is honoured) and start again, what has arrived is kept; "
        f"or set HEADRACE_BROKER to a Kafka of your own"
    )
