"""Sessions per ip of an access log: those of plain Python over the file."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agents.shipping.parsers import ParseError, parse
from app.models.event import LogEvent, encode_event
from app.models.incoming import normalise
from tables.sessions.config import load_sessions
from tests.sessions.sessions_driver import MINUTE, Rig, plain_sessions

SHIPPED = Path(__file__).parents[2] / "config" / "sessions.yaml"
GAP_MS = 30 * MINUTE
LINE = re.compile(r"^(\S+) \S+ \S+ \[([^\]]+)\]")


def access_log(lines: int) -> str:
    """A made-up site in May 2015: visitors who come and go, times that step back a little."""
    draw, now = random.Random(48), datetime(2015, 5, 17, 10, 5, tzinfo=UTC)
    made = []
    for _ in range(lines):
        now += timedelta(seconds=draw.choice((0, 1, 9, 60, 97)))
        when = now - timedelta(seconds=draw.choice((0, 0, 0, 3, 1_200)))
        host = draw.choice((f"198.51.100.{draw.randrange(60)}", f"2001:db8::{draw.randrange(9)}"))
        made.append(
            f"{host} - - [{when:%d/%b/%Y:%H:%M:%S} +0000] "
            f'"GET /page/{draw.randrange(40)} HTTP/1.1" {draw.choice((200, 304, 404))} 5 "-" "-"'
        )
    return "\n".join(made)


def plainly(log: str) -> Counter[tuple[str, int, int, int]]:
    """(ip, start, end, requests) of every session: nothing but the text and a sort."""
    times: dict[str, list[int]] = defaultdict(list)
    for line in log.splitlines():
        found = LINE.match(line)
        assert found is not None
        when = datetime.strptime(found[2], "%d/%b/%Y:%H:%M:%S %z")
        times[found[1]].append(int(when.timestamp()) * 1_000)
    return Counter((ip, *each) for ip in times for each in plain_sessions(times[ip], GAP_MS))


def sessions_of(log: str) -> Rig:
    """The same by the shipper's parser and the agents, as one backfill."""
    rig = Rig(specs=load_sessions(SHIPPED), partitions=3)
    events = []
    for number, line in enumerate(log.splitlines()):
        raw = parse(line.encode(), "combined")
        assert not isinstance(raw, ParseError)
        event = normalise({**raw, "source": "web"}, rig.now_ms, lambda n=number: f"{n:032x}")
        assert isinstance(event, LogEvent)
        events.append(encode_event(event))
    for first in range(0, len(events), 700):
        rig.feed(events[first : first + 700], partition=1, lane="access-1")
    rig.silence(40_000, 1_000)
    return rig


def test_sessions_of_an_access_log_by_ip_equal_plain_python_over_the_file() -> None:
    log = access_log(3_000)
    rig = sessions_of(log)
    found = Counter(
        (s["user"], s["start"], s["end"], s["count"])
        for s in rig.standing().values()
        if s["type"] == "visitors"
    )
    wanted = plainly(log)
    assert found == wanted
    assert len(wanted) > 500
    assert max(count for _, _, _, count in wanted) > 5
    assert rig.open(rig.specs[1]) == 0
    assert rig.total("events") == 3_000
