"""A question about one entity, from its address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlencode

from aiohttp import web

from app.engine.query import Queries
from app.models.rules import RuleError
from tables.entities.event import check_id, entity_key
from tables.entities.spec import EntitySpec, EntitySpecs
from web.entities.gateway import TOPIC
from web.problem import Kind, ProblemError
from web.queries.asking import Question
from web.queries.params import Consistency, parse_consistency
from web.queries.scatter import is_forwarded

PATH: Final = "/api/v1/entities"
PAGE_BYTES_MAX: Final = 4 << 20
"""Attributes in one answer; a page ends there, and its cursor goes on."""
SLICE: Final = 32
"""Rows read before other work of the event loop has its turn."""


def known_type(specs: EntitySpecs, request: web.Request) -> EntitySpec:
    """The type of the address; 404 when it is not configured."""
    name = request.match_info["type"]
    spec = specs.get(name)
    if spec is None:
        known = ", ".join(sorted(specs))
        raise ProblemError(Kind.NOT_FOUND, f"no entity type is named {name[:64]!r}; known: {known}")
    return spec


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about one entity. ``forwarded``: another worker asks."""

    type: str
    id: str
    forwarded: bool
    consistency: Consistency

    @property
    def key(self) -> bytes:
        """Key of its rows and records."""
        return entity_key(self.type, self.id)

    @property
    def path(self) -> str:
        """Its address."""
        return f"{PATH}/{self.type}/{quote(self.id, safe='')}"

    @property
    def missing(self) -> ProblemError:
        """404: nothing is known of it."""
        return ProblemError(Kind.NOT_FOUND, f"no {self.type} has the id {self.id[:200]!r}")

    def again(self, below: str = "", **query: str) -> Question:
        """The same question to another worker."""
        given = urlencode({"consistency": self.consistency, **query})
        path = f"{self.path}{below}?{given}"
        return Question(TOPIC, self.key, path, self.consistency, self.forwarded)


def asked(specs: EntitySpecs, queries: Queries, request: web.Request) -> Asked:
    """What a request asks; 404 for a type or an id that cannot be."""
    spec, entity_id = known_type(specs, request), request.match_info["id"]
    try:
        check_id(entity_id)
    except RuleError as exc:
        raise ProblemError(Kind.NOT_FOUND, f"no {spec.type} has such an id: it {exc}") from exc
    forwarded = is_forwarded(request, queries)
    return Asked(spec.type, entity_id, forwarded, parse_consistency(request.query))
