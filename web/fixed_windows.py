"""The windows that fixed endpoints and the live page answer from, and what each must be. Pure.

A window of another shape would not fail: it would answer with figures that are wrong, such as
an error rate of 0 because nothing says which events are errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tables.windows.spec import WindowSpec, duration_text
from web.queries.requests import RANGE_MS

REQUESTS_WINDOW: Final = "requests_per_endpoint"
"""The window behind ``/metrics/requests`` and the live page."""
ERRORS_WINDOW: Final = "errors_per_endpoint"
"""The window behind ``/metrics/errors``."""
TRENDS_WINDOW: Final = "trends_per_service"
"""The window behind ``/trends``."""

ERRORS_AS: Final = "errors: {status_min: 500}"


@dataclass(frozen=True, slots=True)
class View:
    """What answers from ``window``: it must have these fields (by their names in the file).

    Without a required one no worker starts; the endpoints of another answer 404.
    """

    window: str
    readers: str
    fields: Mapping[str, str | bool]
    errors: bool = False
    """It must say which events are errors."""
    size_ms_max: int | None = None
    required: bool = False

    def mistakes(self, spec: WindowSpec) -> Iterator[str]:
        """What is not as its readers need it; each names field, value and what is accepted."""
        for name, wanted in self.fields.items():
            given = getattr(spec, _ATTRIBUTES.get(name, name))
            if given != wanted:
                yield f"{name} = {given!r}: accepted: {wanted!r}"
        if self.errors and spec.errors is None:
            yield f"errors is missing: accepted: which events are errors, as {ERRORS_AS}"
        if self.size_ms_max is not None and spec.size_ms > self.size_ms_max:
            size, most = duration_text(spec.size_ms), duration_text(self.size_ms_max)
            yield f"size = {size}: accepted: at most {most}"


_ATTRIBUTES: Final = {"global": "global_row"}
"""Fields of the file that a spec calls otherwise."""

VIEWS: Final = (
    View(
        REQUESTS_WINDOW,
        "/metrics/requests, /metrics/latency, /metrics/anomalies and the live page",
        {"kind": "tumbling", "key": "endpoint", "value": "latency_ms"},
        errors=True,
        size_ms_max=RANGE_MS,
        required=True,
    ),
    View(
        ERRORS_WINDOW,
        "/metrics/errors",
        {"kind": "hopping", "key": "endpoint", "codes": True},
    ),
    View(
        TRENDS_WINDOW,
        "/trends",
        {"kind": "sliding", "key": "service", "value": "latency_ms", "global": True},
        errors=True,
    ),
)


def view_mistakes(specs: Sequence[WindowSpec]) -> list[str]:
    """One sentence for each way in which declared windows are not as the views need them."""
    declared = {spec.name: spec for spec in specs}
    mistakes = []
    for view in VIEWS:
        spec = declared.get(view.window)
        if spec is not None:
            mistakes += [
                f"window {spec.name}: {said}, because {view.readers} read it"
                for said in view.mistakes(spec)
            ]
        elif view.required:
            fields = ", ".join(f"{name}: {wanted}" for name, wanted in view.fields.items())
            fields += f", {ERRORS_AS}" * view.errors
            mistakes.append(
                f"window {view.window} is missing, which {view.readers} read: "
                f"declare it again ({fields})"
            )
    return mistakes
