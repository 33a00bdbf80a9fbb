"""A YAML file that people write: read within bounds, and its values told within bounds.

A few lines of aliases can stand for more values than fit into memory, and a value may be as
long as a file: who starts a worker with a file gets its mistakes told in lines he can read.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any, Final

import yaml

FILE_BYTES_MAX: Final = 1 << 20
VALUES_MAX: Final = 50_000
"""Values of a file, each alias counted as what it stands for."""
TOLD_MAX: Final = 80
"""Characters of a value in a mistake."""
LINE_MAX: Final = 500
"""Characters of a mistake."""
_ENTRIES_TOLD: Final = 8
_BITS_TOLD: Final = 4 * TOLD_MAX


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = _ENTRIES_TOLD
        self.maxstring = self.maxother = 2 * TOLD_MAX

    def repr_int(self, x: int, level: int) -> str:  # noqa: ARG002 - the base class's signature
        # Python refuses to write the digits of one that is larger by far.
        return repr(x) if x.bit_length() <= _BITS_TOLD else f"{hex(x)[:TOLD_MAX]}..."


_SHORT: Final = _Short()


def told(value: object) -> str:
    """A value as a mistake quotes it: about :data:`TOLD_MAX` characters at most."""
    return cut(_SHORT.repr(value), TOLD_MAX)


def cut(text: str, most: int = LINE_MAX) -> str:
    """The text, or its beginning and ``...`` where it is longer than ``most`` characters."""
    return text if len(text) <= most else f"{text[:most]}..."


class _Loader(yaml.SafeLoader):
    """YAML whose mappings have each key once, as its specification says: PyYAML keeps the last.

    It ends when the values are too many, before anything is made of them.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._values = 0
        self._values_of: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark, before = event.start_mark, self._values
        self._values += 1
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if not isinstance(event, yaml.AliasEvent):
            self._values_of[node] = self._values - before
        elif node in self._values_of:
            self._values = before + self._values_of[node]
        else:
            raise yaml.composer.ComposerError(None, None, "a value that contains itself", mark)
        if self._values > VALUES_MAX:
            said = f"more than {VALUES_MAX} values, each alias counted as what it stands for"
            raise yaml.composer.ComposerError(None, None, said, mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in given:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{told(key.value)} is given twice", key.start_mark
                )
            given.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> object:
    """What a file says; None for an empty one.

    Raises :class:`OSError`, :class:`UnicodeDecodeError`, or :class:`yaml.YAMLError` where it is
    not YAML, where it is larger than :data:`FILE_BYTES_MAX` or stands for more than
    :data:`VALUES_MAX` values.
    """
    with path.open("rb") as file:
        raw = file.read(FILE_BYTES_MAX + 1)
    if len(raw) > FILE_BYTES_MAX:
        raise yaml.YAMLError(f"it is larger than {FILE_BYTES_MAX} bytes")
    text = raw.decode()
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a SafeLoader
    except RecursionError:
        raise yaml.YAMLError("its values are nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that is none
        raise yaml.YAMLError(cut(str(error))) from None
