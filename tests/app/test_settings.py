"""Settings from the environment and headrace.yaml: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import CHECKOUT, Settings, SettingsError, load_settings


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HEADRACE_WEB_PROT", "HEADRACE_WEB_PORT"),
        ("HEADRACE_PARTITION", "HEADRACE_PARTITIONS"),
        ("HEADRACE_NAMESAPCE", "HEADRACE_NAMESPACE"),
        ("HEADRACE_COMMIT_INTERVAL", "HEADRACE_COMMIT_INTERVAL_MS"),
        ("HEADRACE_FETCH_MEMORY", "HEADRACE_FETCH_MEMORY_BYTES"),
    ],
)
def test_a_misspelt_variable_is_refused_and_the_meant_one_named(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(SettingsError, match=f"{name}: no setting has this name; {meant} has"):
        load_settings()


def test_every_mistake_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_WEB_PROT", "1")
    monkeypatch.setenv("HEADRACE_PARTITIONS", "many")
    with pytest.raises(SettingsError, match=r"(?s)HEADRACE_WEB_PROT.*partitions = 'many'"):
        load_settings()


def test_what_a_container_platform_sets_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "SERVICE_HOST", "SERVICE_PORT", "PORT_6066_TCP_ADDR"):
        monkeypatch.setenv(f"HEADRACE_{name}", "tcp://10.0.0.1:6066")
    assert load_settings().web_port is None


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", "")
    settings = load_settings()
    assert settings.home == CHECKOUT / ".headrace"
    assert (settings.web_bind, settings.web_port) == ("127.0.0.1", None)


@pytest.mark.parametrize("field", ["web_bind", "advertised_host"])
@pytest.mark.parametrize("host", ["a b", "http://a", "a/b"])
def test_a_host_that_is_no_host_is_refused(
    monkeypatch: pytest.MonkeyPatch, field: str, host: str
) -> None:
    monkeypatch.setenv(f"HEADRACE_{field.upper()}", host)
    with pytest.raises(SettingsError, match=f"{field} = '{host}'"):
        load_settings()


@pytest.mark.parametrize(
    "content",
    [
        b"guarantee: [\n",
        b"\xff",
        b"a:\n\t- b",
        b"- a",
        b"demo: true\ndemo: false",
        b"home: 2024-13-45",
        b"[" * 20_000,
    ],
)
def test_a_file_that_is_not_yaml_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "headrace.yaml"
    file.write_bytes(content)
    monkeypatch.setitem(Settings.model_config, "yaml_file", file)
    with pytest.raises(SettingsError, match=f"{file} cannot be read as YAML"):
        load_settings()


def test_a_value_that_is_long_is_told_by_its_beginning_and_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADRACE_BROKER", f"http://user:{'secret' * 50}@{'host' * 10_000}")
    with pytest.raises(SettingsError, match=r"broker = 'http://\.\.\.@host") as caught:
        load_settings()
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 300
