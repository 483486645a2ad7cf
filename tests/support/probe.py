"""How long servers serve nobody, whoever asks: what a fault takes by itself, beside what clients
see of it."""

import hashlib
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import NoScriptError, RedisClusterException
from redis.retry import Retry
from redis.sentinel import Sentinel
from topologies import until

EACH = 0.01
"""Seconds between two looks."""
PATIENCE = 0.2
"""Seconds that a server has for its answer."""
SCRIPT = "return redis.call('SET', KEYS[1], ARGV[1], 'PX', 60000)"
SHA = hashlib.sha1(SCRIPT.encode()).hexdigest()
KEYS = ["probe:b", "probe:a", "probe:d"]
"""In the first, the second and the last third of the slots."""
FAILURES = (redis.RedisError, RedisClusterException, OSError)

Client = Any
Open = Callable[[], Client]


def _options() -> dict[str, Any]:
    return {
        "socket_timeout": PATIENCE,
        "socket_connect_timeout": PATIENCE,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }


def at_server(url: str) -> Open:
    """redis-py's client, with one connection."""
    return lambda: redis.Redis.from_url(url, single_connection_client=True, **_options())


def by_sentinels(ports: list[int], master: str) -> Open:
    """The one that asks sentinels where the primary is."""

    def opened() -> Client:
        addresses = [("127.0.0.1", port) for port in ports]
        return Sentinel(addresses, sentinel_kwargs=_options(), **_options()).master_for(master)

    return opened


def in_cluster(ports: list[int]) -> Open:
    """The one that asks the nodes which of them has a slot."""

    def opened() -> Client:
        nodes = [ClusterNode("127.0.0.1", port) for port in ports]
        return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **_options())

    return opened


class Probe:
    """A client without any memory of trouble: it runs a script that writes, all the time, and
    begins anew after each failure."""

    def __init__(self, opened: Open) -> None:
        self._open = opened
        self._client: Client = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._failed: list[float] = []
        self._rounds = 0

    @property
    def window(self) -> float:
        """Seconds from the first error to the last."""
        return self._failed[-1] - self._failed[0] if self._failed else 0.0

    def serves(self) -> None:
        """Until a whole round has succeeded that began now or later."""
        wanted = self._rounds + 2
        until(lambda: self._rounds >= wanted)

    def __enter__(self) -> "Probe":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        self._forget()

    def _look(self) -> None:
        while not self._stop.wait(EACH):
            for key in KEYS:
                try:
                    self._write(key)
                except FAILURES:
                    self._failed.append(time.monotonic())
                    self._forget()
                    break
            else:
                self._rounds += 1

    def _write(self, key: str) -> None:
        if self._client is None:
            self._client = self._open()
        try:
            self._client.evalsha(SHA, 1, key, "")
        except NoScriptError:
            self._client.eval(SCRIPT, 1, key, "")

    def _forget(self) -> None:
        client, self._client = self._client, None
        with suppress(*FAILURES):
            if client is not None:
                client.close()
