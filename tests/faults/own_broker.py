"""A broker of the drills' own, to be killed, paused, and reached through a proxy.

It is the product's embedded broker with one more listener, which is advertised at the
proxy's port: who asks there for the brokers' addresses is sent through the proxy for good.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import psutil

from app.broker import launch
from app.broker.embedded import ensure_broker, stop_broker
from app.broker.process import await_end
from app.broker.properties import Layout, Ports, server_properties
from tests.faults.proxy import Proxy
from tests.system.harness import free_port


@dataclass
class OwnBroker:
    """``bootstrap`` leads to the broker directly, ``proxied`` through the proxy."""

    home: Path
    proxy: Proxy
    proxied: str
    extra: str
    bootstrap: str = ""
    pid: int = 0

    @property
    def through_proxy(self) -> Mapping[str, str]:
        """Environment of workers that talk to the broker through the proxy."""
        return {"HEADRACE_BROKER": f"kafka://{self.proxied}"}

    def start(self) -> None:
        """Start it (again) on its data; returns when it answers."""

        def with_listener(layout: Layout, ports: Ports) -> str:
            own = server_properties(layout, ports)
            # The last of equal keys counts; the first keeps the ports readable to the product.
            return own + self.extra.format(client=ports.client, controller=ports.controller)

        with patch.object(launch, "server_properties", with_listener):
            address = ensure_broker(self.home)
        self.bootstrap, self.pid = address.bootstrap, address.pid

    def kill(self) -> None:
        """Kill -9; returns when it has ended."""
        process = psutil.Process(self.pid)
        process.kill()
        assert await_end(process, 20), "the killed broker does not end"

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        psutil.Process(self.pid).send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        psutil.Process(self.pid).send_signal(signal.SIGCONT)


@contextlib.contextmanager
def own_broker(home: Path) -> Iterator[OwnBroker]:
    """A running broker behind a running proxy, stopped at the end whatever was done to it."""
    direct, proxied = free_port(), free_port()
    extra = (
        "listeners=PLAINTEXT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller},"
        f"PROXIED://127.0.0.1:{direct}\n"
        "advertised.listeners=PLAINTEXT://127.0.0.1:{client},"
        f"PROXIED://127.0.0.1:{proxied}\n"
        "listener.security.protocol.map="
        "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT\n"
    )
    with Proxy(proxied, direct).running() as proxy:
        broker = OwnBroker(home, proxy, f"127.0.0.1:{proxied}", extra)
        try:
            broker.start()
            yield broker
        finally:
            if broker.pid and psutil.pid_exists(broker.pid):
                broker.go_on()
            stop_broker(home)
