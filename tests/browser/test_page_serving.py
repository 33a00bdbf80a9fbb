"""What the page's routes answer, and what its installer says; no browser needed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from web.page import LIBRARY_FILES, OWN_FILES, PAGE, page_routes
from web.page.install import InstallError, install, npm_command


def client(libraries: Path) -> TestClient[web.Request, web.Application]:
    app = web.Application()
    app.add_routes(page_routes(libraries))
    return TestClient(TestServer(app))


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    for name in LIBRARY_FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("/* library */")
    return tmp_path


async def test_without_libraries_the_page_says_which_command_installs_them(tmp_path: Path) -> None:
    async with client(tmp_path) as http, http.get("/") as answer:
        assert answer.status == 503
        assert "python -m web.page.install" in await answer.text()


async def test_every_file_the_page_asks_for_is_served_under_a_strict_policy(
    libraries: Path,
) -> None:
    async with client(libraries) as http:
        names = [*OWN_FILES, *(f"lib/{name}" for name in LIBRARY_FILES)]
        for path in ("/", *(f"/static/{name}" for name in names)):
            async with http.get(path) as answer:
                assert answer.status == 200, path
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'self'" in policy
                assert "unsafe" not in policy
                assert answer.headers["Cache-Control"] == "no-cache"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_an_unchanged_file_is_answered_without_its_body(libraries: Path) -> None:
    async with client(libraries) as http:
        async with http.get("/static/app.js") as first:
            tag = first.headers["ETag"]
        async with http.get("/static/app.js", headers={"If-None-Match": tag}) as second:
            assert second.status == 304


@pytest.mark.parametrize(
    "path", ["/static/index.html", "/static/../install.py", "/static/lib/uplot/package.json"]
)
async def test_nothing_else_in_the_folders_can_be_reached(libraries: Path, path: str) -> None:
    (libraries / "uplot" / "package.json").write_text("{}")
    async with client(libraries) as http, http.get(path) as answer:
        assert answer.status == 404


def test_every_own_file_is_served_and_every_served_file_exists() -> None:
    there = {path.name for path in (PAGE / "static").iterdir()} - {"index.html"}
    assert there == set(OWN_FILES)


def test_the_lock_file_pins_a_hash_and_names_no_registry() -> None:
    packages = json.loads((PAGE / "package-lock.json").read_text())["packages"]
    foreign = {name: entry for name, entry in packages.items() if name}
    assert foreign
    for entry in foreign.values():
        assert entry["integrity"].startswith("sha512-")
        assert "resolved" not in entry


def test_no_npm_anywhere_is_one_sentence_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InstallError, match=r"install Node\.js 18 or newer, or run `pip install"):
        npm_command()


def test_a_failure_is_told_in_npms_own_words(tmp_path: Path) -> None:
    shutil.copy(PAGE / "package-lock.json", tmp_path)
    (tmp_path / "package.json").write_text("not JSON")
    with pytest.raises(InstallError, match=r"^npm could not .*JSON.*: check that .* run this"):
        install(tmp_path)


def test_a_folder_without_lock_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"package-lock\.json"):
        install(tmp_path)


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm that unpacks two files and notes each call: the real one needs a registry."""
    script = tmp_path / "bin" / "npm"
    script.parent.mkdir()
    made = "\n".join(
        f'/bin/mkdir -p "$(/usr/bin/dirname node_modules/{name})"; : > node_modules/{name}'
        for name in LIBRARY_FILES
    )
    script.write_text(f'#!/bin/sh\necho "$@" >> calls\n{made}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent))
    return script


def test_a_second_installation_does_nothing_until_the_lock_file_changes(
    tmp_path: Path,
    npm: Path,  # noqa: ARG001 - takes its place on the PATH
) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / "package-lock.json").write_text("{}")
    assert [install(page), install(page)] == [True, False]
    (page / "package-lock.json").write_text('{"changed": true}')
    assert [install(page), install(page)] == [True, False]
    (page / "node_modules" / LIBRARY_FILES[0]).unlink()
    assert install(page)
    assert len((page / "calls").read_text().splitlines()) == 3
