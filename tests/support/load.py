"""Visitors who read, write, sign in and end sessions, and note what they are told: so it can be
said what a fault has cost."""

import logging
import mmap
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from topologies import until

from pyramid_altsession.api import OpenSession, SessionAPI
from pyramid_altsession.errors import NotDurable, SessionGone, StoreUnavailable

THREADS = 8
SESSIONS = 4
"""Of one thread."""
KEYS = [f"k{number}" for number in range(6)]
"""Of one session."""


@dataclass
class Cost:
    """What a fault has cost.

    ``lost``: when what is lost had been acknowledged. ``window``: seconds from the first error to
    the last; ``own``: seconds in which the servers served nobody. ``unconfirmed``: ends that no
    replica confirmed, which the caller was told.
    """

    calls: int = 0
    errors: "Counter[str]" = field(default_factory=Counter)
    untyped: list[str] = field(default_factory=list)
    first: float = 0.0
    last: float = 0.0
    own: float | None = None
    slowest: float = 0.0
    foreign: int = 0
    lost: list[float] = field(default_factory=list)
    ended: int = 0
    resurrected: int = 0
    durably: int = 0
    resurrected_durably: int = 0
    unconfirmed: int = 0
    endless: int = 0
    lines: "Counter[str]" = field(default_factory=Counter)

    @property
    def window(self) -> float:
        return self.last - self.first

    def failed(self, error: StoreUnavailable) -> None:
        self.errors[type(error).__name__] += 1
        self.last = time.monotonic()
        self.first = self.first or self.last

    def add(self, other: "Cost") -> None:
        """What another process has noted."""
        self.first = min([each for each in (self.first, other.first) if each], default=0.0)
        self.last, self.slowest = max(self.last, other.last), max(self.slowest, other.slowest)
        for name in ("calls", "errors", "untyped", "foreign", "lost", "ended", "resurrected",
                     "durably", "resurrected_durably", "unconfirmed", "endless"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lines |= other.lines  # the limit is each process's


def patiently(call: Callable[..., object], *arguments: Any) -> None:
    """Carry it out, however slow the servers still are on a busy machine."""

    def done() -> bool:
        with suppress(StoreUnavailable):
            call(*arguments)
            return True
        return False

    until(done)


class Lines(logging.Handler):
    """Counts what is logged about each server."""

    def __init__(self) -> None:
        super().__init__()
        self.said: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        about = record.getMessage()
        for end in (" does not serve", " is full", " serves again", " is not asked"):
            about = about.partition(end)[0]
        self.said[about] += 1


class Written(NamedTuple):
    """What is known of one key: ``least`` was acknowledged, at ``when``; ``most`` was tried.
    ``unsure``: those that failed. A server that was stopped may carry them out late."""

    least: int = 0
    most: int = 0
    when: float = 0.0
    unsure: frozenset[int] = frozenset()


class Visitor:
    """One session, and what its owner knows of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.session: OpenSession | None = None
        self.began = 0.0
        self.written: dict[str, Written] = {}


class Flag:
    """An event that forked processes share. It has no lock, so nobody waits for a process that the
    machine lets wait."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._byte[0] = 1

    def clear(self) -> None:
        self._byte[0] = 0

    def is_set(self) -> bool:
        return bool(self._byte[0])


class Load:
    """Threads of visitors. ``durable``: half of the ends wait for a replica. ``remember``: how many
    ended sessions are looked at afterwards. ``slow``: shared by the loads of several processes."""

    def __init__(
        self, url: str, *, name: str = "", threads: int = THREADS, durable: bool = False,
        remember: int | None = None, slow: Flag | None = None, **settings: object,
    ) -> None:  # fmt: skip
        times = {"timeout": 1.0, "connect_timeout": 1.0, "url": url, **settings}
        self.api = SessionAPI.from_settings({"redis": times})
        self.cost = Cost()
        self._durable = durable
        self._slow = slow or Flag()
        self._ended: deque[tuple[str, bool]] = deque(maxlen=remember)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._lines = Lines()
        self._visitors = [
            [Visitor(f"{name}{thread}-{number}") for number in range(SESSIONS)]
            for thread in range(threads)
        ]
        self._threads = [threading.Thread(target=self._work, args=(v,)) for v in self._visitors]

    @contextmanager
    def running(self) -> Iterator["Load"]:
        """Until the block ends; then everything is looked at once more."""
        log = logging.getLogger("pyramid_altsession")
        log.addHandler(self._lines)
        for thread in self._threads:
            thread.start()
        try:
            self.serves(50)
            yield self
            self.serves(100)
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
            log.removeHandler(self._lines)
        self._look()
        self.cost.lines = self._lines.said
        self.api.close()

    def serves(self, calls: int) -> None:
        """Until so many more calls were served."""
        wanted = self.cost.calls + calls
        until(lambda: self.cost.calls >= wanted)

    def fails(self) -> None:
        """Until a call has failed."""
        until(lambda: self.cost.errors)

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """In this block there is always somebody, but not as much as the processors can do: it
        is for waiting until servers have come to agree, which takes long and needs processors."""
        self._slow.set()
        try:
            yield
        finally:
            self._slow.clear()

    def names(self) -> list[str]:
        """Of the users who sign in."""
        return [visitor.name for visitors in self._visitors for visitor in visitors]

    def _work(self, visitors: list[Visitor]) -> None:
        chance = random.Random(visitors[0].name)
        while not self._stop.is_set():
            visitor = chance.choice(visitors)
            began = time.monotonic()
            try:
                self._visit(visitor, chance)
            except NotDurable:
                with self._lock:
                    self.cost.unconfirmed += 1
            except StoreUnavailable as error:
                with self._lock:
                    self.cost.failed(error)
                self._stop.wait(0.005)
            except SessionGone:
                self._lost(visitor)
            except Exception as error:  # what must not be
                with self._lock:
                    self.cost.untyped.append(repr(error))
            with self._lock:
                self.cost.slowest = max(self.cost.slowest, time.monotonic() - began)
            if self._slow.is_set():
                self._stop.wait(0.02)

    def _lost(self, visitor: Visitor) -> None:
        """All of it, or the sign-in that replaced its cookie."""
        latest = [written.when for written in visitor.written.values()]
        with self._lock:
            self.cost.lost.append(max([visitor.began, *latest]))
        visitor.session = None

    def _visit(self, visitor: Visitor, chance: random.Random) -> None:
        if visitor.session is None:
            visitor.written = {}
            visitor.session = self.api.create({"whose": visitor.name})
            visitor.began = time.monotonic()
        session, dice = visitor.session, chance.random()
        if dice < 0.5:
            self._read(visitor, session)
        elif dice < 0.9:
            self._write(visitor, session, chance.choice(KEYS))
        elif dice < 0.95:
            session.login(visitor.name)
            visitor.began = time.monotonic()
        else:
            self._end(visitor, session, durable=self._durable and chance.random() < 0.5)
        with self._lock:
            self.cost.calls += 1

    def _read(self, visitor: Visitor, session: OpenSession) -> None:
        found = session.mget(["whose", *KEYS], fresh=True)
        foreign = found["whose"] != visitor.name
        for key in KEYS:
            written, value = visitor.written.get(key, Written()), found[key] or 0
            if written.least <= value <= written.most or value in written.unsure:
                continue
            foreign = foreign or value > written.most
            with self._lock:
                self.cost.lost.append(written.when)
            visitor.written[key] = written._replace(least=value, most=max(value, written.most))
        with self._lock:
            self.cost.foreign += foreign

    def _write(self, visitor: Visitor, session: OpenSession, key: str) -> None:
        before = visitor.written.get(key, Written())
        number = before.most + 1
        visitor.written[key] = before._replace(most=number, unsure=before.unsure | {number})
        session.set(key, number)
        visitor.written[key] = Written(number, number, time.monotonic(), before.unsure)

    def _end(self, visitor: Visitor, session: OpenSession, *, durable: bool) -> None:
        token = session.token
        visitor.session = None  # whatever is answered
        session.invalidate(durable=durable)
        assert token is not None
        self._ended.append((token, durable))

    def _look(self) -> None:
        """What was acknowledged is there, and what was ended is not."""
        for visitor in [each for visitors in self._visitors for each in visitors]:
            if visitor.session is None:
                continue
            try:
                patiently(self._read, visitor, visitor.session)
            except SessionGone:
                self._lost(visitor)
        self.cost.ended = len(self._ended)
        for token, durable in self._ended:
            self.cost.durably += durable
            with suppress(SessionGone):
                patiently(self.api.open(token).get, "whose")
                self.cost.resurrected += 1
                self.cost.resurrected_durably += durable
