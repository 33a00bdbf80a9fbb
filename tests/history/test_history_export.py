"""Exports are complete or fail, in order of time, with one row for each thing."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from agents.history.command import Bounds, export_command
from agents.history.export import Format
from tables.history.datasets import ENTITIES, SESSIONS, WINDOWS, Dataset
from tables.history.names import DAY_MS
from tests.history.rows import (
    DAY_0,
    MINUTE,
    NAME,
    archive,
    entity_event,
    folder,
    session,
    window,
)
from tests.system.harness import CHECKOUT

Texts = tuple[str | None, str | None]
NOW = DAY_0 + 6 * MINUTE


def run(
    history: Path,
    dataset: Dataset,
    format_: Format = "csv",
    bounds: Texts = (None, None),
    **equal: str | None,
) -> tuple[int, str, Path]:
    """Exit code, what was printed, and the output."""
    told = io.StringIO()
    output = history.parent / f"out.{format_}"
    code = export_command(
        folder(history, dataset),
        dataset.name,
        equal,
        Bounds(*bounds, NOW),
        output,
        format_,
        Console(file=told, soft_wrap=True),
    )
    return code, told.getvalue(), output


def table(output: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(output.read_text())))


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "history"


def test_windows_of_three_days_are_exported_in_order_with_their_latest_revision(
    history: Path,
) -> None:
    sent = [window(key, DAY_0 + at * DAY_MS // 8) for at in range(24) for key in ("/b", "/a")]
    archive(history, WINDOWS, sent[:30])
    archive(history, WINDOWS, [*sent[20:], window("/a", DAY_0, revision=2)], first=20)
    code, told, output = run(history, WINDOWS)
    assert code == 0, told
    assert "48 rows of windows written" in told
    rows = table(output)
    assert list(rows[0]) == WINDOWS.columns
    assert [(int(row["start"]), row["key"]) for row in rows] == sorted(
        (DAY_0 + at * DAY_MS // 8, key) for at in range(24) for key in ("/a", "/b")
    )
    assert [row["revision"] for row in rows[:3]] == ["2", "1", "1"]
    assert json.loads(rows[0]["codes"]) == {"404": 3}


@pytest.mark.parametrize(
    "bounds", [("2026-11-21T00:01:00Z", str(DAY_0 + 4 * MINUTE)), ("-5m", "-120s")]
)
def test_a_range_and_a_key_are_kept_to(history: Path, bounds: Texts) -> None:
    archive(history, WINDOWS, [window(k, DAY_0 + a * MINUTE) for a in range(5) for k in "ab"])
    code, told, output = run(history, WINDOWS, "parquet", bounds, name=NAME, key="a")
    assert code == 0, told
    found = pq.read_table(output)
    assert [(at - DAY_0) // MINUTE for at in found["start"].to_pylist()] == [1, 2, 3]
    assert set(found["key"].to_pylist()) == {"a"}
    assert found.schema.names == WINDOWS.columns


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_sessions_keep_their_lists(history: Path, format_: Format) -> None:
    archive(history, SESSIONS, [session("s1", 1, 2), session("s2", 1, 9, supersedes=["s1"])])
    code, told, output = run(history, SESSIONS, format_)
    assert code == 0, told
    if format_ == "csv":
        (row,) = table(output)
        assert (row["id"], json.loads(row["steps"])) == ("s2", ["view", "cart"])
    else:
        (row,) = pq.read_table(output).to_pylist()
        assert (row["id"], row["supersedes"]) == ("s2", ["s1"])


def test_entity_events_are_exported(history: Path) -> None:
    archive(history, ENTITIES, [entity_event("d1", at, at) for at in (1, 2)])
    code, told, output = run(history, ENTITIES, type="device", id="d1")
    assert code == 0, told
    assert [row["version"] for row in table(output)] == ["1", "2"]


def test_nothing_archived_is_an_empty_table_with_its_header(history: Path) -> None:
    code, told, output = run(history, WINDOWS)
    assert (code, "0 rows" in told) == (0, True)
    assert list(csv.reader(io.StringIO(output.read_text()))) == [WINDOWS.columns]


@pytest.mark.slow
def test_times_far_apart_are_exported_in_bounded_steps(history: Path) -> None:
    archive(history, WINDOWS, [window("a", 0), window("a", 250_000_000_000_000)])
    code, told, output = run(history, WINDOWS)
    assert code == 0, told
    assert len(table(output)) == 2


def test_a_file_that_cannot_be_read_is_named_and_nothing_is_exported(history: Path) -> None:
    made = archive(history, WINDOWS, [window("a", DAY_0)])
    folder(history, WINDOWS).file(made).write_bytes(b"PAR1 torn")
    code, told, output = run(history, WINDOWS)
    assert code == 1
    assert made.name in told
    assert "move it away to export without it" in told
    assert list(output.parent.iterdir()) == [history]


def test_an_existing_file_is_never_replaced(history: Path) -> None:
    archive(history, WINDOWS, [window("a", DAY_0)])
    _, _, output = run(history, WINDOWS)
    output.write_text("precious")
    code, told, _ = run(history, WINDOWS)
    assert (code, "exists" in told, output.read_text()) == (1, True, "precious")


@pytest.mark.parametrize(
    ("bounds", "equal", "reason"),
    [
        (("yesterday", None), {}, "--from: expected epoch milliseconds, RFC 3339"),
        ((None, "99999999999999999999"), {}, "--to: expected epoch milliseconds"),
        (("5", "5"), {}, "--from must be before --to"),
        ((None, None), {"user": "ann", "name": None}, "windows have no --user; they have --name"),
    ],
)
def test_a_wrong_option_says_what_is_right(
    history: Path, bounds: Texts, equal: dict[str, str | None], reason: str
) -> None:
    code, told, output = run(history, WINDOWS, "csv", bounds, **equal)
    assert code == 1
    assert reason in told
    assert not output.exists()


@pytest.mark.slow
def test_the_command_exports_without_a_broker(tmp_path: Path) -> None:
    archive(tmp_path / "cold", WINDOWS, [window("a", DAY_0)])
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "faust", "-A", "app", "export", "windows", "--name", NAME),
            *("--format", "csv", "--output", str(tmp_path / "out.csv")),
        ],
        cwd=CHECKOUT,
        env=kept
        | {"HEADRACE_HOME": str(tmp_path / "home"), "HEADRACE_HISTORY": str(tmp_path / "cold")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "1 rows of windows written" in done.stderr
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 2
