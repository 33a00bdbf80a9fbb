"""One answer from two places: what state still holds, and what only files hold. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeVar

Place = Literal["hot", "cold"]
HOT: Final[Place] = "hot"
COLD: Final[Place] = "cold"

_Hot = TypeVar("_Hot")
_Cold = TypeVar("_Cold")
_Key = TypeVar("_Key", int, tuple[int, str])


def span(
    hot: Iterable[_Hot],
    cold: Iterable[_Cold],
    hot_key: Callable[[_Hot], _Key],
    cold_key: Callable[[_Cold], _Key],
) -> list[tuple[Place, _Hot | _Cold]]:
    """Both, in order of their keys, each with its place; of two rows of one key the hot one.

    State may be ahead of the files (a window that is still open, or was revised a moment
    ago), never behind them, so hot wins. Keys are unique in each of the two: a window's
    start, a session's start and id, an entity event's offset. Nothing is left out, so an
    answer has no gap as long as the files reach to where state begins: let the two overlap.
    """
    held: dict[_Key, tuple[Place, _Hot | _Cold]] = {cold_key(row): (COLD, row) for row in cold}
    for row in hot:
        held[hot_key(row)] = (HOT, row)
    return [held[key] for key in sorted(held)]
