"""The topic catalogue: what ``config/topics.yaml`` may say. Pure but for reading the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic import model_validator as validates

from app.broker.errors import CatalogueError
from app.broker.properties import MESSAGE_BYTES_MAX
from tables.yamlfile import read_yaml, told

COMPACTED_SEGMENT_MS = 600_000
"""Only closed segments are compacted: a changelog's are closed after 10 minutes."""

TopicName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,199}$")]


class TopicSpec(BaseModel):
    """One topic; the meaning of each field stands at the head of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    partitions: Annotated[int, Field(ge=1, le=256)]
    cleanup: Literal["delete", "compact"]
    retention_ms: Annotated[int, Field(ge=60_000)]
    changelog_of: TopicName | None = None

    @validates(mode="after")
    def _compacted(self) -> TopicSpec:
        if self.changelog_of is not None and self.cleanup != "compact":
            raise ValueError("a changelog's cleanup must be compact, or state would expire")
        return self


class Catalogue(BaseModel):
    """Every topic by its logical name."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_message_bytes: Annotated[int, Field(ge=1 << 20, le=MESSAGE_BYTES_MAX)]
    topics: Annotated[Mapping[TopicName, TopicSpec], Field(min_length=1)]

    @validates(mode="after")
    def _copartitioned(self) -> Catalogue:
        for name, spec in self.topics.items():
            if spec.changelog_of is None:
                continue
            source = self.topics.get(spec.changelog_of)
            if source is None:
                raise ValueError(f"{name}.changelog_of: there is no topic {spec.changelog_of}")
            if source.partitions != spec.partitions:
                raise ValueError(
                    f"{name}.partitions: must be {source.partitions}, as many as "
                    f"{spec.changelog_of} has, and is {spec.partitions}"
                )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Logical names, in the file's order."""
        return tuple(self.topics)

    def partitions(self, name: str) -> int:
        """Production partition count of a topic; KeyError for a name not in the catalogue."""
        return self.topics[name].partitions

    def config(self, name: str, *, replication: int) -> dict[str, str]:
        """Kafka's topic configuration."""
        spec = self.topics[name]
        config = {
            "cleanup.policy": spec.cleanup,
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(self.max_message_bytes),
            "min.insync.replicas": "2" if replication >= 3 else "1",
        }
        if spec.cleanup == "delete":
            config["retention.ms"] = str(spec.retention_ms)
        else:
            config["segment.ms"] = str(COMPACTED_SEGMENT_MS)
            config["min.cleanable.dirty.ratio"] = "0.3"
            config["delete.retention.ms"] = str(spec.retention_ms)
        return config


def load_catalogue(path: Path) -> Catalogue:
    """Read and validate the catalogue.

    Raises :class:`CatalogueError` that names the file and, one a line, each topic and
    field that is wrong.
    """
    try:
        return Catalogue.model_validate(read_yaml(path))
    except OSError as exc:
        raise CatalogueError(f"the topic catalogue {path} cannot be read: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise CatalogueError(f"the topic catalogue {path} is not valid YAML: {exc}") from exc
    except ValidationError as exc:
        lines = [
            f"{'.'.join(map(str, e['loc']))}{' = ' + told(e['input']) if e['loc'] else ''}: "
            f"{e['msg'].removeprefix('Value error, ')}"
            for e in exc.errors()
        ]
        raise CatalogueError(
            f"the topic catalogue {path} is not valid:\n  " + "\n  ".join(lines)
        ) from exc
