"""A real S3-compatible server: s3proxy over a folder, to be killed and started again.

It checks signatures as S3 does. Its jars come from Maven Central as the embedded broker's do.
"""

from __future__ import annotations

import os
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from jgo.maven import MavenContext

from app.broker.download import _Downloads, _fetch
from app.broker.java import find_java
from tables.history.place import Bucket
from tests.system.harness import free_port, wait_for

ACCESS_KEY = "headrace-tests"
SECRET_KEY = "not-a-secret-0123456789"  # noqa: S105 - of the server started here
_AWS, _JACKSON = "software.amazon.awssdk:{}:2.54.2", "tools.jackson.{}:3.2.2"
JARS = (
    "org.gaul:s3proxy:4.1.0",
    *map(
        _AWS.format,
        ("s3", "sdk-core", "aws-core", "http-client-spi", "utils", "checksums", "checksums-spi"),
    ),
    *map(_JACKSON.format, ("core:jackson-core", "core:jackson-databind")),
    _JACKSON.format("dataformat:jackson-dataformat-xml"),
    "com.fasterxml.jackson.core:jackson-annotations:2.22",
    "com.fasterxml.woodstox:woodstox-core:7.2.1",
    "org.codehaus.woodstox:stax2-api:4.3.0",
    "com.google.guava:guava:33.7.1-jre",
    "com.google.guava:failureaccess:1.0.3",
    "jakarta.servlet:jakarta.servlet-api:6.0.0",
    "args4j:args4j:2.37",
    "org.reactivestreams:reactive-streams:1.0.4",
    "io.opentelemetry:opentelemetry-api:1.65.0",
    "io.opentelemetry:opentelemetry-context:1.65.0",
    "io.opentelemetry:opentelemetry-common:1.65.0",
    "org.slf4j:slf4j-api:2.0.18",
    "org.slf4j:slf4j-simple:2.0.18",
)
"""What the file system's part of it needs: the whole would be ten times as much."""


@cache
def jars() -> list[Path]:
    """From the Maven cache, or Maven Central."""
    context = MavenContext(resolver=_Downloads(lambda _told: None), timeout=30)
    found = []
    for each in JARS:
        group, name, version = each.split(":")
        found.append(_fetch(context.project(group, name).at_version(version).artifact()))
    return found


@dataclass
class ObjectStore:
    """The server of one run; its buckets are folders of ``home``."""

    home: Path
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What AWS's tools are told."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def bucket(self, name: str) -> Bucket:
        (self.home / "buckets" / name).mkdir(parents=True)
        return Bucket(name, "cold/history", self.endpoint, "us-east-1")

    def start(self) -> None:
        (self.home / "buckets").mkdir(parents=True, exist_ok=True)
        config = {
            "s3proxy.endpoint": self.endpoint,
            "s3proxy.authorization": "aws-v4",
            "s3proxy.identity": ACCESS_KEY,
            "s3proxy.credential": SECRET_KEY,
            "jclouds.provider": "filesystem-nio2",
            "jclouds.filesystem.basedir": str(self.home / "buckets"),
        }
        properties = self.home / "s3proxy.conf"
        properties.write_text("".join(f"{name}={value}\n" for name, value in config.items()))
        with (self.home / "s3proxy.out").open("ab") as sink:
            self._process = subprocess.Popen(
                [
                    *(find_java().path, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
                    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                    f"-Dorg.slf4j.simpleLogger.logFile={self.home / 's3proxy.log'}",
                    *("-cp", os.pathsep.join(map(str, jars()))),
                    *("org.gaul.s3proxy.Main", "--properties", properties),
                ],
                stdout=sink,
                stderr=sink,
            )
        self.wait()

    def wait(self) -> None:
        """Until it answers: one that has ended tells its log."""
        wait_for("object store answers", self._answers)

    def stop(self) -> None:
        """Kill it: nothing it holds back is written."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool | None:
        assert self._process is not None
        told = [self.home / name for name in ("s3proxy.log", "s3proxy.out")]
        assert self._process.poll() is None, "\n".join(each.read_text() for each in told)
        try:
            urllib.request.urlopen(self.endpoint, timeout=5).close()
        except urllib.error.HTTPError:
            return True  # it wants a signature
        except OSError:
            return None
        return True
