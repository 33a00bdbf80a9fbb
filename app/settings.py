"""Settings: defaults < ``config/headrace.yaml`` < ``HEADRACE_*`` environment.

Built once, frozen, and handed down; nothing else reads the environment. A wrong
value raises :class:`SettingsError`, whose text names the field, the value and the
accepted range, one line per wrong field. An empty variable counts as unset; one whose name
is nearly that of a setting is a mistake, because nothing else would tell of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from tables.history.place import Bucket, Place, read_endpoint, read_place
from tables.yamlfile import cut, read_yaml, told

CHECKOUT = Path(__file__).resolve().parent.parent
CONFIG_DIR = CHECKOUT / "config"

ENV_PREFIX: Final = "HEADRACE_"
ALIKE: Final = 0.75
"""Likeness (0..1) from which a variable's name is a misspelt setting's. A container platform
sets variables such as HEADRACE_PORT and HEADRACE_SERVICE_HOST of its own: they are less like."""

Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,253}$")]
Guarantee = Literal["exactly_once", "at_least_once"]


class SettingsError(Exception):
    """The configuration cannot be used; the text says which field, and what it accepts."""


class _File(YamlConfigSettingsSource):
    """The file of settings, read within the bounds of every file that people write."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        written = read_yaml(Path(str(file_path)))
        if written is None:
            return {}
        if not isinstance(written, dict):
            raise yaml.YAMLError(f"expected settings and their values, not {told(written)}")
        return written


class Settings(BaseSettings):
    """Everything an operator can set. Times end in ``_ms`` or ``_s``, sizes in ``_bytes``."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        yaml_file=CONFIG_DIR / "headrace.yaml",
        yaml_file_encoding="utf-8",
    )

    home: Path = CHECKOUT / ".headrace"
    """State folder: broker data, worker folders, downloaded jars' index, ports, pids."""

    history: Path | Bucket | None = None
    """Folder or ``s3://bucket/prefix`` of closed windows, closed sessions and entity events as
    Parquet files, the same for all workers; unset: ``history`` in the state folder. A bucket's
    endpoint and region are those of the ``AWS_*`` environment, as are the credentials, which
    only the client reads."""

    config: Path = CONFIG_DIR
    """Folder of ``windows.yaml``, ``sessions.yaml`` and ``entities.yaml``."""

    broker: str | None = None
    """``kafka://host:port;host:port`` of a real cluster; unset starts the embedded broker."""

    namespace: Annotated[str, Field(pattern=r"^[a-z0-9-]{0,40}$")] = ""
    """Prefix of every topic and of the consumer group, so that several can share a cluster."""

    partitions: Annotated[int, Field(ge=1, le=256)] | None = None
    """Partitions of every topic; unset: 4 on the embedded broker, the catalogue's on a cluster."""

    replication: Annotated[int, Field(ge=1, le=7)] | None = None
    """Replicas of every topic; unset: 1 on the embedded broker, 3 on a cluster."""

    guarantee: Guarantee = "exactly_once"
    """``at_least_once`` exists for comparison in benchmarks."""

    commit_interval_ms: Annotated[int, Field(ge=5, le=10_000)] = 100
    """Longest time an epoch stays open once it holds something."""

    session_timeout_ms: Annotated[int, Field(ge=1_000, le=300_000)] = 10_000
    """How long a silent worker keeps its partitions. Transactions time out sooner."""

    static_membership: bool = False
    """Keep a worker's partitions for it while it restarts, for as long as a session lasts.

    Then also a worker that ends for good is missed only after that."""

    standby_replicas: Annotated[int, Field(ge=0, le=3)] = 1
    """Other workers that keep each partition's state current, to take over at once."""

    web_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    """Web port; unset: 6066, or the next free one for a further worker on this machine."""

    web_bind: Host = "127.0.0.1"
    """Address the web server listens on. Loopback unless told otherwise."""

    advertised_host: Host | None = None
    """Host name other workers reach this one by; unset: ``web_bind``."""

    state_memory_bytes: Annotated[int, Field(ge=8 << 20, le=64 << 30)] = 64 << 20
    """RocksDB block cache and write buffers of the whole worker, all partitions together."""

    fetch_memory_bytes: Annotated[int, Field(ge=8 << 20, le=16 << 30)] = 64 << 20
    """Records fetched and not yet processed, of the whole worker; beyond it partitions pause."""

    ingest_rate: Annotated[int, Field(ge=1, le=10_000_000)] = 50_000
    """Events per second one worker's gateway accepts before it answers 429."""

    admin_token: SecretStr | None = None
    """Bearer token of administrative calls; unset or empty: there are none.

    It belongs into the environment: a file is read by more people."""

    demo: bool = False
    """Run the seeded web-shop traffic generator inside the worker."""

    collect: bool = False
    """Ship this host's CPU, memory and disk readings and the embedded broker's log."""

    @field_validator("broker")
    @classmethod
    def _broker_url(cls, value: str | None) -> str | None:
        if not value:
            return None
        for part in value.split(";"):
            url = urlsplit(part if "://" in part else f"kafka://{part}")
            try:
                port = url.port
            except ValueError:
                port = None
            if url.scheme != "kafka" or not url.hostname or port is None:
                raise ValueError("expected kafka://host:port;host:port")
        return value

    @field_validator("history", mode="before")
    @classmethod
    def _place(cls, value: object) -> object:
        place = read_place(value) if isinstance(value, str) else value
        if not isinstance(place, Bucket):
            return place
        endpoint = _first_set("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        region = _first_set("AWS_REGION", "AWS_DEFAULT_REGION")
        if endpoint is None:
            return replace(place, region=region)
        try:
            return replace(place, endpoint=read_endpoint(endpoint), region=region or "us-east-1")
        except ValueError as exc:
            raise ValueError(f"AWS_ENDPOINT_URL: {exc}") from exc

    @field_validator("config", "home", "history")
    @classmethod
    def _absolute(cls, value: Path | Bucket | None) -> Path | Bucket | None:
        return value.expanduser().absolute() if isinstance(value, Path) else value

    @property
    def history_place(self) -> Place:
        """Where the history lies."""
        return self.home / "history" if self.history is None else self.history

    @property
    def embedded(self) -> bool:
        """Whether the worker runs on the broker it starts itself."""
        return self.broker is None

    @property
    def group(self) -> str:
        """Consumer group, which is also the application id."""
        return self.topic("headrace")

    def topic(self, name: str) -> str:
        """Physical name of a topic of the catalogue."""
        return f"{self.namespace}.{name}" if self.namespace else name

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over YAML over defaults; arguments (tests) over all."""
        return init_settings, env_settings, _File(settings_cls)


def load_settings(**overrides: object) -> Settings:
    """Read and validate the settings, or raise :class:`SettingsError` with every wrong field."""
    lines = _misspelt(os.environ)
    try:
        settings = Settings(**overrides)  # type: ignore[arg-type]  # validated by pydantic
    except ValidationError as exc:
        lines += [
            cut(f"{'.'.join(map(str, e['loc']))} = {_told(e['input'])}: {e['msg']}")
            for e in exc.errors()
        ]
        raise _not_valid(lines) from exc
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        file = Settings.model_config["yaml_file"]
        raise SettingsError(f"{file} cannot be read as YAML: {exc}") from exc
    if lines:
        raise _not_valid(lines)
    return settings


def _told(value: object) -> str:
    """A wrong value as it is told, without what may be a password in a URL."""
    if isinstance(value, str):
        return told(re.sub(r"//[^/]*@", "//...@", value))
    return re.sub(r"//.*", "//...", told(value))


def _first_set(*names: str) -> str | None:
    """The value of the first of these variables that has one."""
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _misspelt(names: Iterable[str]) -> list[str]:
    """A line for each variable that is nearly one of ours."""
    lines = []
    for name in sorted(names):
        bare = name.upper().removeprefix(ENV_PREFIX).lower()
        if name.upper().startswith(ENV_PREFIX) and bare not in Settings.model_fields:
            meant = get_close_matches(bare, Settings.model_fields, n=1, cutoff=ALIKE)
            lines += [
                f"{name}: no setting has this name; {ENV_PREFIX}{field.upper()} has"
                for field in meant
            ]
    return lines


def _not_valid(lines: list[str]) -> SettingsError:
    return SettingsError("configuration is not valid:\n  " + "\n  ".join(lines))
