"""Listing what is archived: names only, no file is opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tables.history.names import ASIDE, HistoryFile, parse_day, parse_name


@dataclass(frozen=True, slots=True)
class DatasetFolder:
    """Files of one dataset of one namespace."""

    path: Path

    def file(self, file: HistoryFile) -> Path:
        """Where the file lies."""
        return self.path / file.path

    def files(self) -> list[HistoryFile]:
        """Every file by its name; what has no name of ours is passed over.

        A folder that does not exist (yet, or no more) holds nothing.
        """
        return self._parsed("")

    def aside(self) -> list[HistoryFile]:
        """Files that were set aside as unreadable: what they would hold, by their names."""
        return self._parsed(ASIDE)

    def days(self) -> list[tuple[str, Path]]:
        """Folders of days, oldest first."""
        return sorted(
            (day, self.path / name) for name in _names(self.path) if (day := parse_day(name))
        )

    def _parsed(self, ending: str) -> list[HistoryFile]:
        return [
            file
            for day, folder in self.days()
            for name in _names(folder)
            if name.endswith(ending) and (file := parse_name(day, name.removesuffix(ending)))
        ]


def dataset_folder(history: Path, namespace: str, dataset: str) -> DatasetFolder:
    """Folder of a dataset. Namespaces share the history folder and nothing in it."""
    return DatasetFolder(history / (namespace or "default") / dataset)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - thousands of names, no need of paths
    except (FileNotFoundError, NotADirectoryError):
        return []
