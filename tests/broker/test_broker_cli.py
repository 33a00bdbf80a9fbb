import os
import subprocess
import sys
from pathlib import Path

import pytest

APP = """
import faust
from faust.cli.base import cli
from app.broker.commands import broker_command
from app.settings import Settings

app = faust.App("listing", broker="kafka://127.0.0.1:1")
cli.add_command(broker_command(Settings()))
"""


def faust(tmp_path, *arguments):
    (tmp_path / "listing_app.py").write_text(APP)
    env = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
    path = os.pathsep.join([str(tmp_path), str(Path.cwd())])
    return subprocess.run(
        [sys.executable, "-m", "faust", "-A", "listing_app", *arguments],
        capture_output=True, text=True, check=False,
        env=env | {"PYTHONPATH": path, "HEADRACE_HOME": str(tmp_path / "home")},
    )  # fmt: skip


@pytest.mark.slow
def test_fausts_help_lists_the_broker_command(tmp_path):
    assert "The embedded Kafka: start, stop, status." in faust(tmp_path, "--help").stdout


@pytest.mark.slow
def test_the_command_works_under_faust_on_the_settings_state_folder(tmp_path):
    done = faust(tmp_path, "broker", "status")
    assert done.returncode == 1
    assert f"no broker runs in {tmp_path / 'home'}" in done.stderr
    assert faust(tmp_path, "broker", "stop").returncode == 0
    assert not (tmp_path / "home").exists()
