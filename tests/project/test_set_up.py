"""What a fresh clone relies on: the lock files, and the commands the README names."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
LOCK = (CHECKOUT / "requirements.lock").read_text("utf-8")
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
PIN = re.compile(r"^([a-z0-9.-]+)==(\S+)", re.MULTILINE)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    wanted = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        wanted += extra
    return {normal(re.split(r"[\[<>=~ ]", requirement, maxsplit=1)[0]) for requirement in wanted}


def test_the_lock_names_no_index_and_no_folder_of_packages() -> None:
    assert "://" not in LOCK
    assert not re.search(r"^\s*(--index|--extra-index|--find-links|-i |-f )", LOCK, re.MULTILINE)


def test_every_locked_package_has_a_hash() -> None:
    blocks = re.split(r"^(?=[a-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(PIN.findall(LOCK))
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_every_declared_package_is_locked() -> None:
    assert declared() - {name for name, _ in PIN.findall(LOCK)} == set()


def test_faust_is_pinned_exactly_and_installed_as_pinned() -> None:
    pinned = dict(PIN.findall(LOCK))["faust-streaming"]
    assert f"faust-streaming=={pinned}" in PROJECT["dependencies"]
    assert metadata.version("faust-streaming") == pinned


def test_the_page_lock_holds_hashes_and_no_registry_address() -> None:
    text = (CHECKOUT / "web" / "page" / "package-lock.json").read_text("utf-8")
    packages = {name: lock for name, lock in json.loads(text)["packages"].items() if name}
    assert packages
    assert "resolved" not in text
    assert all(lock["integrity"].startswith("sha512-") for lock in packages.values())


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_every_make_target_a_document_names_exists(document: str) -> None:
    makefile = (CHECKOUT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(
        re.findall(r"(?:^|`)make ([a-z-]+)", (CHECKOUT / document).read_text("utf-8"), re.MULTILINE)
    )
    assert named
    assert named - targets == set()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/adr/README.md"])
def test_every_relative_link_of_a_document_leads_somewhere(document: str) -> None:
    path = CHECKOUT / document
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_lists_every_setting() -> None:
    source = (CHECKOUT / "app" / "settings.py").read_text("utf-8")
    fields = re.findall(r"^    ([a-z_]+): .*= ", source, re.MULTILINE)
    readme = (CHECKOUT / "README.md").read_text("utf-8")
    assert fields
    assert [name for name in fields if f"`HEADRACE_{name.upper()}`" not in readme] == []


def test_no_interpreter_is_one_sentence_and_a_failure(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock"):
        (tmp_path / name).write_bytes((CHECKOUT / name).read_bytes())
    (tmp_path / "shim").write_text("#!/bin/sh\necho no such version >&2\nexit 127\n")
    (tmp_path / "shim").chmod(0o755)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={tmp_path / 'shim'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith("error: none of")
    assert "3.11, 3.12 or 3.13" in done.stderr
    assert not (tmp_path / ".venv").exists()
