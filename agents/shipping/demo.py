"""Demonstration traffic: a web shop with customers, sessions, slow and failing endpoints.

Everything is drawn from one seeded generator, so the same seed and start give the same
events. Every event is marked ``source: "demo-shop"``.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final
from uuid import UUID

from agents.shipping.pace import Pace, Sleep
from agents.shipping.port import EventSink, SinkError
from app.engine.clock import Clock
from app.models.event import LogEvent
from app.models.rules import Level

logger = logging.getLogger(__name__)

SOURCE: Final = "demo-shop"
RATE_PER_S: Final = 200.0
"""Mean rate; the wave moves it by a third up and down within a day."""
SESSIONS: Final = 400
TICK_MS: Final = 100
CATCH_UP_MS_MAX: Final = 5_000
"""After a longer pause (a suspended laptop) traffic starts anew instead of catching up."""
_DAY_MS: Final = 86_400_000
_WAVE: Final = 1 / 3


@dataclass(frozen=True, slots=True)
class Page:
    """An endpoint: latencies are log-normal around ``median_ms``; the rest is probabilities."""

    service: str
    method: str
    endpoint: str
    median_ms: float
    spread: float = 0.4
    failing: float = 0.001
    missing: float = 0.0
    status: int = 200


PAGES: Final = {
    "home": Page("web", "GET", "/", 18),
    "category": Page("web", "GET", "/category/{name}", 32, missing=0.004),
    "product": Page("web", "GET", "/product/{id}", 28, missing=0.015),
    "search": Page("search", "GET", "/api/search", 85, 0.7, 0.004),
    "suggest": Page("search", "GET", "/api/search/suggest", 9, 0.3),
    # The two that a first look at the page should find: one slow, one failing.
    "recommend": Page("recommendations", "GET", "/api/recommendations", 420, 0.9, 0.012),
    "pay": Page("checkout", "POST", "/api/checkout/pay", 240, 0.6, 0.06),
    "cart": Page("checkout", "POST", "/api/cart/items", 22, status=201),
    "cart_view": Page("checkout", "GET", "/api/cart", 14),
    "order": Page("checkout", "GET", "/api/orders/{id}", 35, missing=0.01),
    "login": Page("auth", "POST", "/api/auth/login", 65, 0.3, 0.002),
    "logout": Page("auth", "POST", "/api/auth/logout", 8, status=204),
    "image": Page("static", "GET", "/static/product.jpg", 3, 0.5, missing=0.002),
}
NEXT: Final = {
    "home": ("category", "category", "search", "suggest", "login", "recommend"),
    "category": ("product", "product", "image", "category", "home"),
    "product": ("image", "image", "recommend", "cart", "category", "product"),
    "suggest": ("search", "suggest"),
    "search": ("product", "product", "search", "suggest"),
    "recommend": ("product", "product", "home"),
    "image": ("product", "category", "image"),
    "cart": ("cart_view", "product", "cart_view"),
    "cart_view": ("pay", "product", "pay", "home"),
    "pay": ("order", "order", "pay"),
    "order": ("home", "logout"),
    "login": ("home", "cart_view", "category"),
    "logout": ("home",),
}
_REFUSED_LOGIN: Final = 0.06
_LEAVING: Final = 0.04
_COUNTRIES: Final = ("DE", "FR", "GB", "NL", "PL", "US", "US", "IN", "BR", "JP")
_AGENTS: Final = ("Mozilla/5.0 (desktop)", "Mozilla/5.0 (mobile)", "shop-app/4.2")


@dataclass(slots=True)
class _Session:
    user: int
    session: str
    ip: str
    country: str
    agent: str
    page: str


def shop_events(seed: int, start_ms: int, rate: float = RATE_PER_S) -> Iterator[LogEvent]:
    """Endless traffic from ``start_ms`` on, in order of event time (when a request ended).

    ``rate`` is the mean in events per second.
    """
    # Ids must not come again when the worker starts again with the same seed.
    rng = Random(f"{seed}/{start_ms}")  # noqa: S311 - traffic, not secrets
    sessions = [_new_session(rng) for _ in range(SESSIONS)]
    clock = float(start_ms)
    while True:
        clock += rng.expovariate(rate * wave(int(clock))) * 1_000
        index = rng.randrange(SESSIONS)
        yield _request(rng, sessions[index], int(clock))
        if rng.random() < _LEAVING:
            sessions[index] = _new_session(rng)
        else:
            sessions[index].page = rng.choice(NEXT[sessions[index].page])


def wave(now_ms: int) -> float:
    """Factor of the rate by the time of day (UTC): 2/3 at 05:00, 4/3 at 17:00."""
    return 1 - _WAVE * math.cos(2 * math.pi * (now_ms / _DAY_MS - 5 / 24))


def _new_session(rng: Random) -> _Session:
    return _Session(
        user=int(rng.paretovariate(1.2) * 100) % 20_000,
        session=f"s-{rng.getrandbits(48):012x}",
        # TEST-NET-3 and -2: addresses that belong to nobody.
        ip=f"{rng.choice(('203.0.113', '198.51.100'))}.{rng.randrange(1, 255)}",
        country=rng.choice(_COUNTRIES),
        agent=rng.choice(_AGENTS),
        page="home",
    )


def _request(rng: Random, session: _Session, now_ms: int) -> LogEvent:
    page = PAGES[session.page]
    status = _status(rng, session.page, page)
    latency_ms = rng.lognormvariate(math.log(page.median_ms), page.spread)
    if status >= 500:
        latency_ms = min(latency_ms * 4, 10_000.0)
    level: Level = "ERROR" if status >= 500 else "WARN" if status >= 400 else "INFO"
    return LogEvent(
        event_id=str(UUID(int=rng.getrandbits(128), version=4)),
        timestamp=now_ms,
        source=SOURCE,
        service=page.service,
        level=level,
        type="http_request",
        message=f"{page.method} {page.endpoint} {status}",
        endpoint=page.endpoint,
        method=page.method,
        status=status,
        latency_ms=round(latency_ms, 3),
        user_id=f"u-{session.user}",
        session_id=session.session,
        ip=session.ip,
        country=session.country,
        trace_id=f"{rng.getrandbits(64):016x}",
        metadata={"user_agent": session.agent},
    )


def _status(rng: Random, name: str, page: Page) -> int:
    draw = rng.random()
    if draw < page.failing:
        return rng.choice((500, 502, 503, 504))
    if draw < page.failing + page.missing:
        return 404
    if name == "login" and rng.random() < _REFUSED_LOGIN:
        return 401
    return page.status


async def run_demo(
    port: EventSink,
    *,
    clock: Clock,
    topic: str = "application-logs",
    seed: int = 1,
    rate: float = RATE_PER_S,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Send the shop's traffic as it happens, ten times a second, until cancelled.

    What the sink does not take is dropped: it is only a demonstration.
    """
    pace = Pace(TICK_MS, clock, sleep)
    sent_to = clock.now_ms()
    traffic = shop_events(seed, sent_to, rate)
    upcoming = next(traffic)
    while True:
        now_ms = await pace.next()
        if now_ms - sent_to > CATCH_UP_MS_MAX:
            traffic = shop_events(seed, now_ms, rate)
            upcoming = next(traffic)
        sent_to = now_ms
        events: list[LogEvent] = []
        while upcoming.timestamp <= now_ms:
            events.append(upcoming)
            upcoming = next(traffic)
        try:
            if events:
                await port.send(topic, events)
        except SinkError as exc:
            logger.warning("demonstration traffic dropped: %s", exc)
