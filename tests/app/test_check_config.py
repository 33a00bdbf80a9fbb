"""``check-config``: what the files declare, or every mistake in all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from app.check_config import ConfigError, check_config_command, load_declared
from app.settings import CHECKOUT, CONFIG_DIR, Settings
from tables.windows.spec import WindowSpecError, load_windows

Windows = dict[str, dict[str, Any]]


def config_with(folder: Path, change: Callable[[Windows], object]) -> Path:
    """The shipped configuration with changed windows, by name."""
    shutil.copytree(CONFIG_DIR, folder, dirs_exist_ok=True)
    shipped = yaml.safe_load((CONFIG_DIR / "windows.yaml").read_text())["windows"]
    windows: Windows = {window["name"]: window for window in shipped}
    change(windows)
    (folder / "windows.yaml").write_text(yaml.safe_dump({"windows": [*windows.values()]}))
    return folder


def test_the_shipped_configuration_is_good_and_says_what_it_declares() -> None:
    result = CliRunner().invoke(check_config_command(Settings()))
    assert result.exit_code == 0, result.output
    for name in ("requests_per_endpoint (tumbling)", "visitors", "device", "log-events"):
        assert name in result.output


def test_mistakes_in_several_files_are_told_at_once(tmp_path: Path) -> None:
    for name in ("entities.yaml",):
        shutil.copy(CONFIG_DIR / name, tmp_path)
    (tmp_path / "windows.yaml").write_text("windows: [{name: a}]")
    result = CliRunner().invoke(check_config_command(Settings(config=tmp_path)))
    assert result.exit_code == 1
    assert f"{tmp_path}/windows.yaml: window a: kind is missing" in result.output
    assert f"{tmp_path}/sessions.yaml: cannot be read" in result.output
    with pytest.raises(ConfigError, match="window a: grace is missing"):
        load_declared(Settings(config=tmp_path))


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("windows.yaml", "windows: []\nwindows: []\n", "'windows' is given twice"),
        (
            "windows.yaml",
            "windows:\n  - {name: a, size: 60s, size: 30s}\n",
            "'size' is given twice",
        ),
        (
            "sessions.yaml",
            "sessions: [{where: {level: [INFO], level: [WARN]}}]",
            "'level' is given",
        ),
        ("entities.yaml", "entities: [{type: a, type: b}]", "'type' is given twice"),
        ("entities.yaml", "entities: [{[a]: b}]", "found unhashable key"),
    ],
)
def test_a_field_that_is_given_twice_is_a_mistake_and_not_the_last_of_them(
    tmp_path: Path, file: str, text: str, said: str
) -> None:
    shutil.copytree(CONFIG_DIR, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_declared(Settings(config=tmp_path))
    assert f"{tmp_path}/{file}: is not YAML" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda w: w.pop("requests_per_endpoint"),
            "window requests_per_endpoint is missing, which /metrics/requests, /metrics/latency, "
            "/metrics/anomalies and the live page read: declare it again (kind: tumbling, "
            "key: endpoint, value: latency_ms, errors: {status_min: 500})",
        ),
        (
            lambda w: w["requests_per_endpoint"].update(kind="hopping", advance="10s"),
            "window requests_per_endpoint: kind = 'hopping': accepted: 'tumbling', because /metr",
        ),
        (
            lambda w: w["requests_per_endpoint"].update(key="service"),
            "window requests_per_endpoint: key = 'service': accepted: 'endpoint', because",
        ),
        (
            lambda w: w["requests_per_endpoint"].pop("value"),
            "window requests_per_endpoint: value = None: accepted: 'latency_ms', because",
        ),
        (
            lambda w: w["requests_per_endpoint"].pop("errors"),
            "window requests_per_endpoint: errors is missing: accepted: which events are errors",
        ),
        (
            lambda w: w["requests_per_endpoint"].update(size="1h"),
            "window requests_per_endpoint: size = 1h: accepted: at most 5m, because /metr",
        ),
        (
            lambda w: w["errors_per_endpoint"].pop("codes"),
            "window errors_per_endpoint: codes = False: accepted: True, because /metrics/errors",
        ),
        (
            lambda w: w["trends_per_service"].pop("global"),
            "window trends_per_service: global = False: accepted: True, because /trends read it",
        ),
        (
            lambda w: w["trends_per_service"].update(value="value"),
            "window trends_per_service: value = 'value': accepted: 'latency_ms', because /trends",
        ),
    ],
)
def test_a_window_that_fixed_endpoints_read_has_the_shape_they_need(
    tmp_path: Path, change: Callable[[Windows], object], said: str
) -> None:
    folder = config_with(tmp_path / "config", change)
    result = CliRunner().invoke(check_config_command(Settings(config=folder)))
    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert line.startswith(f"{folder}/windows.yaml: {said}")


def test_windows_that_no_page_needs_may_be_left_out(tmp_path: Path) -> None:
    def change(windows: Windows) -> None:
        for name in ("errors_per_endpoint", "trends_per_service", "users_per_service"):
            del windows[name]

    declared = load_declared(Settings(config=config_with(tmp_path / "config", change)))
    assert [spec.name for spec in declared.windows] == ["requests_per_endpoint"]


@pytest.mark.slow
def test_a_worker_says_the_same_and_ends_before_it_starts_a_broker(tmp_path: Path) -> None:
    folder = config_with(tmp_path / "config", lambda w: w.pop("requests_per_endpoint"))
    home = tmp_path / "home"
    ended = subprocess.run(
        [sys.executable, "-m", "faust", "-A", "app", "worker"],
        cwd=CHECKOUT,
        env=os.environ | {"HEADRACE_CONFIG": str(folder), "HEADRACE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"headrace: {folder}/windows.yaml: window requests_per_endpoint is mi")
    assert not home.exists()


def bomb(levels: int) -> str:
    """A list that stands for nine to the power of ``levels`` values."""
    lines = [f"    x{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(levels)]
    return "\n".join(["windows:", "  - name: &a0 lol", *lines, ""])


def merged(levels: int) -> str:
    """A mapping that merges nine times what merges nine times."""
    lines = [
        f"    x{n + 1}: &a{n + 1} {{<<: [{', '.join([f'*a{n}'] * 9)}]}}" for n in range(levels)
    ]
    return "\n".join(["windows:", "  - name: w", "    x0: &a0 {k: v}", *lines, ""])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(9), "more than 50000 values, each alias counted as what it stands for"),
        (merged(9), "more than 50000 values, each alias counted as what it stands for"),
        ("windows: &a [*a]\n", "a value that contains itself"),
        ("windows: " + "[" * 20_000, "nested too deeply"),
        ("#" * (1 << 20) + "\n", "larger than 1048576 bytes"),
        ("windows: 2024-13-45\n", "month must be in 1..12"),
        (f"windows: {'9' * 5_000}\n", "is not YAML"),
        (f"windows: *{'a' * 100_000}\n", "found undefined alias"),
        (f"windows:\n  {'k' * 90}: 1\n  {'k' * 90}: 2\n", "is given twice"),
    ],
)
@pytest.mark.parametrize("file", ["windows.yaml", "sessions.yaml", "entities.yaml"])
def test_a_file_that_stands_for_more_than_it_should_is_refused_in_one_line(
    tmp_path: Path, file: str, text: str, said: str
) -> None:
    shutil.copytree(CONFIG_DIR, tmp_path, dirs_exist_ok=True)
    (tmp_path / file).write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        load_declared(Settings(config=tmp_path))
    assert len(str(caught.value)) < 1_000


def test_aliases_of_a_few_values_are_read(tmp_path: Path) -> None:
    text = """
    windows:
      - &a {name: a, topic: log-events, kind: tumbling, size: &s 60s, grace: *s, key: service}
      - {<<: *a, name: b}
    """
    (tmp_path / "windows.yaml").write_text(text)
    specs = load_windows(tmp_path / "windows.yaml")
    assert [(spec.name, spec.grace_ms) for spec in specs] == [("a", 60_000), ("b", 60_000)]


@pytest.mark.parametrize(
    "value",
    [
        "x" * 100_000,
        str([[[["x"] * 8] * 8] * 8] * 8),
        "{" + ", ".join(f"k{n}: v" for n in range(10_000)) + "}",
        "0x" + "f" * 100_000,
    ],
)
def test_a_huge_value_is_told_by_its_beginning(tmp_path: Path, value: str) -> None:
    text = f"windows:\n  - name: w\n    size: {value}\n    where: {{type: {value}}}\n"
    (tmp_path / "windows.yaml").write_text(text)
    with pytest.raises(WindowSpecError) as caught:
        load_windows(tmp_path / "windows.yaml")
    assert "window w: size = " in str(caught.value)
    assert max(map(len, str(caught.value).splitlines())) < 700


def test_of_many_mistakes_a_hundred_are_told(tmp_path: Path) -> None:
    fields = "".join(f"    f{n}: 1\n" for n in range(5_000))
    (tmp_path / "windows.yaml").write_text(f"windows:\n  - name: w\n{fields}")
    with pytest.raises(WindowSpecError, match=r"and \d+ more mistakes") as caught:
        load_windows(tmp_path / "windows.yaml")
    assert len(str(caught.value).splitlines()) == 101
