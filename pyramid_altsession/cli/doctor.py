"""``altsession CONFIG_URI doctor``: whether server and settings are fit to hold sessions."""

import re
import socket
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import redis

from ..api import SessionAPI
from ..config.converters import PREFIX
from ..config.table import RedisSettings
from ..errors import AltSessionError, StoreUnavailable
from ..interfaces import Store
from ..protocol.fields import Timing
from ..protocol.messages import Read
from ..protocol.token import Token
from .configuration import Configured
from .findings import ERROR, OK, WARNING, Finding
from .of_server import CONFIGURATION, info_of, of_server
from .of_settings import empty_secrets, of_settings
from .output import Output
from .rights import of_database, rights

REFUSED = re.compile(
    "Authentication required|already authenticated|username-password|without any password"
)
"""What servers say about a wrong user or password, a missing one, and one that nobody asked for."""
READS = 200
SLOW = 0.1
"""The slowest reads, one in a hundred, may take this part of ``redis.timeout``."""
ASTRAY = 2.0
"""Seconds by which two clocks may differ."""


class Node(Protocol):
    """One server. ``ask`` sends it a command, and raises redis.ResponseError if the server refuses
    it.
    """

    name: str

    def ask(self, *command: str) -> Any: ...


@runtime_checkable
class Topology(Protocol):
    """A store on servers that can be asked about themselves."""

    def nodes(self) -> Sequence[Node]: ...


def doctor(arguments: Namespace, configured: Configured, output: Output) -> int:
    """All findings; exit code 1 if one of them is an error."""
    levels = set()
    for finding in examine(configured):
        levels.add(finding.level)
        output.finding(finding._asdict())
    return 1 if ERROR in levels else 0


def examine(configured: Configured) -> Iterator[Finding]:
    """All findings about the settings and the servers."""
    yield from settings_of(configured)
    store = configured.store()
    try:
        yield from of_store(configured, store)
    finally:
        store.close()


def settings_of(configured: Configured) -> Iterator[Finding]:
    yield from of_settings(configured.settings, configured.application, configured.server)
    yield from empty_secrets(configured.empty)


def of_store(configured: Configured, store: Store) -> Iterator[Finding]:
    settings = configured.settings
    assert isinstance(store, Topology)
    reached = []
    nodes = store.nodes()
    for node in nodes:
        name = node.name if len(nodes) > 1 else ""
        try:
            began = time.time()
            node.ask("PING")
        except StoreUnavailable as error:
            yield Finding("reachable", ERROR, str(error), unreachable(settings.redis, error), name)
            continue
        except redis.ResponseError:  # any answer shows that it can be reached
            pass
        yield Finding("reachable", OK, f"in {(time.time() - began) * 1000:.1f} ms", "", name)
        reached.append(node)
        yield from (finding._replace(node=name) for finding in of_node(node))
    if not reached:
        return
    session = settings.session
    yield from rights(
        reached[0].ask,
        session.prefix,
        settings.redis.username,
        database=settings.redis.db,
        publishes=session.notify != "none",
        replicas=settings.redis.scheme != "embedded",
    )
    yield requests(SessionAPI(settings, store=store))
    try:
        taken = timed_reads(store, Timing.of(settings.session))
    except StoreUnavailable as error:
        yield Finding("latency", ERROR, str(error), "not even reads of a session are served")
    else:
        yield latency(taken, settings.redis.timeout)


def of_node(node: Node) -> Iterator[Finding]:
    """Findings about one server; the caller adds the server's name."""
    config, advice = None, "for as long as the doctor looks: ACL SETUSER … {}"
    try:
        pairs = node.ask("CONFIG", "GET", *CONFIGURATION)
        names = [part.decode() for part in pairs]
        config = dict(zip(names[::2], names[1::2], strict=True))
    except redis.ResponseError:
        found = "the server does not tell its configuration"
        yield Finding("CONFIG GET", WARNING, found, advice.format("+config|get"))
    try:
        info = info_of(node.ask("INFO"))
    except redis.ResponseError:
        found = "the server tells nothing of itself"
        yield Finding("INFO", WARNING, found, advice.format("+info"))
    else:
        yield from of_server(info, config)
    try:
        before = time.time()
        seconds, micros = node.ask("TIME")
    except redis.ResponseError:
        return  # a missing right, which ``rights`` reports
    there = int(seconds) + int(micros) / 1e6
    yield clock(before, there, time.time())


def clock(before: float, there: float, after: float) -> Finding:
    """Compares the server's time with this host's time before and after asking."""
    away = max(before - there, there - after, 0.0)
    if away > ASTRAY:
        advice = "let both hosts keep time (NTP): what is logged and what is shown do not agree"
        return Finding("clock", WARNING, f"{away:.1f} s from this host's", advice)
    return Finding("clock", OK, "as this host's")


def requests(api: SessionAPI) -> Finding:
    """Does once what requests do."""
    try:
        api.check()
    except AltSessionError as error:
        return Finding("requests", ERROR, str(error), "requests of the application fail so too")
    return Finding("requests", OK, "a session began, was used, signed in and ended")


def timed_reads(store: Store, timing: Timing) -> list[float]:
    """The seconds that each of several reads took."""
    read = Read((Token.new().claim,), (), timing, touch=False)
    taken = []
    for _ in range(READS):
        began = time.perf_counter()
        store.execute(read)
        taken.append(time.perf_counter() - began)
    return taken


def latency(taken: Sequence[float], timeout: float) -> Finding:
    ordered = sorted(taken)
    half, most = (ordered[len(ordered) * share // 100] for share in (50, 99))
    found = f"p50 {half * 1000:.2f} ms, p99 {most * 1000:.2f} ms"
    if most > SLOW * timeout:
        advice = f"altsession.redis.timeout is {timeout:g} s: is the server near, and idle enough?"
        return Finding("latency", WARNING, found, advice)
    return Finding("latency", OK, found)


def unreachable(redis: RedisSettings, error: Exception) -> str:
    """What to do about a server that cannot be reached."""
    said = str(error)
    if "access database" in said:
        return of_database(redis.username, redis.db)
    if PREFIX in said:  # it names the settings
        return ""
    if REFUSED.search(said):
        of = "sentinel_" if "no sentinel names" in said else ""
        return "check user and password: " + " and ".join(credentials(redis, of))
    several = redis.sentinels or redis.cluster
    if redis.ssl and not several and speaks_plainly(redis):
        return "the server speaks plain text there, and TLS is configured; see its tls-port"
    return "see altsession.redis.url, and whether the server runs"


def credentials(redis: RedisSettings, of: str) -> list[str]:
    """The settings that hold user and password of the server, or of the sentinels."""
    user, password = f"{of}username", f"{of}password"
    if not of and redis.url:
        user = password = "url"
    if not of and redis.password_file:
        password = "password_file"
    return [f"{PREFIX}redis.{name}" for name in dict.fromkeys((user, password))]


def speaks_plainly(redis: RedisSettings) -> bool:
    """Whether the port answers without TLS. No password is sent."""
    try:
        with socket.create_connection((redis.host, redis.port), redis.connect_timeout) as probe:
            probe.settimeout(redis.timeout)
            probe.sendall(b"PING\r\n")
            return probe.recv(1) in (b"+", b"-")
    except OSError:
        return False
