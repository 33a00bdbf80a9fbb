"""A file of declarations: a list in YAML, read into specs, each named once.

Every mistake in the file is one line that names the file, the entry, the field, the value
and what is accepted; all mistakes are reported together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import yaml
from pydantic import ValidationError

from tables.yamlfile import TOLD_MAX, cut, read_yaml, told

Spec = TypeVar("Spec")
Location = tuple[int | str, ...]
"""Where in an entry a mistake lies: names of fields, places in lists."""


MISTAKES_MAX: Final = 100
"""Mistakes of a file that are told."""


def quoted(field: str, given: object, said: str) -> str:
    """A mistake, with what is given for the field."""
    return f"{field} = {told(given)}: {said}"


@dataclass(frozen=True, slots=True)
class Declarations(Generic[Spec]):
    """What a file lists below ``field``, its only one: at most ``count_max`` entries.

    An entry is spoken of as ``noun``, several as ``plural``; ``name`` is the field that tells
    one from another, of the entry and of its spec. ``read`` makes the spec of an entry or
    raises ValidationError; ``unknown`` says what is wrong with a field that no entry has,
    ``wrong`` words what is said of a field and what is given for it. ``error`` is raised with
    one line per mistake.
    """

    field: str
    noun: str
    plural: str
    name: str
    count_max: int
    read: Callable[[object], Spec]
    unknown: Callable[[Location], str]
    error: type[Exception]
    wrong: Callable[[str, object, str], str] = quoted

    def parse(self, document: object, source: str) -> tuple[Spec, ...]:
        """Specs of a parsed file, in its order; ``source`` names the file in a mistake."""
        entries = document.get(self.field) if isinstance(document, Mapping) else None
        if not isinstance(document, Mapping) or not isinstance(entries, list):
            raise self.error(
                f'{source}: expected "{self.field}:" with a list of {self.plural} below it'
            )
        mistakes = [
            f"{source}: {field} = {told(value)}: unknown; accepted: {self.field}"
            for field, value in document.items()
            if field != self.field
        ]
        if len(entries) > self.count_max:
            mistakes.append(
                f"{source}: {len(entries)} {self.plural}; accepted: at most {self.count_max}"
            )
        specs = []
        for number, entry in enumerate(entries[: self.count_max], start=1):
            name: Any = entry.get(self.name) if isinstance(entry, Mapping) else None
            called = cut(name, TOLD_MAX) if isinstance(name, str) else f"number {number}"
            try:
                specs.append(self.read(entry))
            except ValidationError as error:
                mistakes += [
                    f"{source}: {self.noun} {called}: {said}" for said in self._mistakes(error)
                ]
        mistakes += [
            f"{source}: {self.noun} {name}: {self.name} = {name!r}: used {times} times; "
            "accepted: once"
            for name, times in Counter(map(attrgetter(self.name), specs)).items()
            if times > 1
        ]
        if mistakes:
            lines = [cut(mistake) for mistake in mistakes[:MISTAKES_MAX]]
            if len(mistakes) > MISTAKES_MAX:
                lines.append(f"{source}: and {len(mistakes) - MISTAKES_MAX} more mistakes")
            raise self.error("\n".join(lines))
        return tuple(specs)

    def load(self, path: Path) -> tuple[Spec, ...]:
        """Specs of a file."""
        try:
            document = read_yaml(path)
        except (OSError, UnicodeDecodeError) as error:
            raise self.error(f"{path}: cannot be read: {error}") from error
        except yaml.YAMLError as error:
            raise self.error(f"{path}: is not YAML: {error}") from error
        return self.parse(document, str(path))

    def _mistakes(self, error: ValidationError) -> list[str]:
        lines = []
        for each in error.errors():
            # What is wrong with a key of a mapping is said of the mapping's field.
            loc = tuple(part for part in each["loc"] if part != "[key]")
            field, given = ".".join(map(str, loc)), each["input"]
            said = each["msg"].removeprefix("Value error, ")
            if each["type"] == "missing":
                lines.append(f"{field} is missing")
            elif each["type"] == "extra_forbidden":
                lines.append(f"{field} = {told(given)}: {self.unknown(loc)}")
            elif field:
                lines.append(self.wrong(field, given, said))
            elif isinstance(given, Mapping):  # of several fields: it names them
                lines.append(said)
            else:
                lines.append(f"expected a mapping of fields, not {told(given)}")
        return lines
