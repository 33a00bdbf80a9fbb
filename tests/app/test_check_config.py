"""``check-config``: what the files declare, or every mistake in all of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.check_config import ConfigError, check_config_command, load_declared
from app.settings import CONFIG_DIR, Settings


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
