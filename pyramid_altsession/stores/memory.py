"""Sessions in the process, with the semantics of the server: for unit tests."""

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from ..protocol.fields import (
    CREATED,
    INFO,
    LOGIN,
    PROOF,
    SEEN,
    USER,
    Description,
    State,
    belongs,
    judge,
    keys_of,
)
from ..protocol.messages import (
    PRUNE_AGE,
    REVOKED,
    Describe,
    End,
    Inspect,
    Listing,
    Operation,
    Prune,
    Read,
    Reply,
    Revoke,
    Write,
)
from .apply import Hash, apply

log = logging.getLogger("pyramid_altsession")


def warn_of_processes() -> None:
    log.warning(
        "sessions: altsession.redis.url = memory:// keeps them in one process, and there are"
        " several: a visitor's next request may find none; use a server, or embedded://"
    )


Listener = Callable[[bytes], None]
"""Called in the thread that writes, while the store is locked, so it must not wait."""


class MemoryStore:
    """The store contract on dicts. ``clock`` gives seconds, as ``time.time`` does."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.hashes: dict[str, Hash] = {}
        self.indexes: dict[str, dict[str, int]] = {}
        self._listeners: dict[str, set[Listener]] = {}
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __repr__(self) -> str:
        return "<MemoryStore>"

    def close(self) -> None:
        """Nothing is open; the sessions stay."""

    def send(self, operation: Read) -> "AnsweredRead":
        return AnsweredRead(self.execute(operation))

    def execute(self, operation: Operation) -> Reply:
        with self._alone():
            now = round(self.clock() * 1000)
            for id in [id for id, held in self.hashes.items() if held.expires <= now]:
                del self.hashes[id]
            match operation:
                case Read():
                    return self._read(operation, now)
                case Write():
                    return apply(self, operation, now)
                case Listing(user, sample):
                    entries = self._listed(user)
                    some = random.sample(entries, min(sample, len(entries))) if sample else entries
                    return Reply(State.LIVE, some, now)
                case Revoke(user, keep):
                    index = self.indexes.setdefault(user, {})
                    index[REVOKED] = now
                    if keep is not None:
                        index.setdefault(keep, now)
                    others = [entry for entry in self._listed(user) if entry[0] != keep]
                    return Reply(State.LIVE, others, now)
                case End():
                    ended = [apply(self, write, now).ended for write in operation.writes()]
                    return Reply(State.LIVE, ended, now)
                case Prune():
                    return Reply(State.LIVE, self._prune(operation, now), now)
                case Describe(ids):
                    return Reply(State.LIVE, [self._describe(id, now) for id in ids], now)
                case Inspect(ids):
                    return Reply(State.LIVE, [self._inspect(id, now) for id in ids], now)
                case _:
                    return Reply(State.LIVE, (0, list(self.hashes)), now)

    def listen(self, id: str, listener: Listener) -> None:
        """Call ``listener`` with each notice about this session."""
        with self._alone():
            self._listeners.setdefault(id, set()).add(listener)

    def stop_listening(self, id: str, listener: Listener) -> None:
        with self._alone():
            listeners = self._listeners.get(id, set())
            listeners.discard(listener)
            if not listeners:
                self._listeners.pop(id, None)

    def publish(self, id: str, notice: bytes) -> None:
        """Call the listeners. Only for a Write that is carried out."""
        for listener in self._listeners.get(id, ()):
            listener(notice)

    def _alone(self) -> threading.Lock:
        """The lock that keeps other threads out. After a fork it is another one, because a thread
        of the parent may have held the former."""
        if os.getpid() != self._process:
            self._lock, self._process = threading.Lock(), os.getpid()
            warn_of_processes()
        return self._lock

    def _read(self, operation: Read, now: int) -> Reply:
        states, timing = [], operation.timing
        for which, claim in enumerate(operation.claims):
            held = self.hashes.get(claim.id, Hash())
            state = judge(claim, held.facts, now, timing.window, timing)
            if state is State.LIVE or belongs(operation.whose, state, held.facts):
                if operation.fields is None:
                    values: Any = {n: v for n, v in held.items() if n[:1] != "@" or n == CREATED}
                else:
                    values = [held.get(name) for name in operation.fields]
                left = held.expires - now
                return Reply(State.LIVE, values, now, left, which, held.facts, held.remembered(now))
            states.append(state)
        return Reply(State.DEAD, states)

    def _listed(self, user: str) -> list[tuple[str, int]]:
        entries = sorted(self.indexes.get(user, {}).items(), key=_newest_first)
        return [entry for entry in entries if entry[0] != REVOKED]

    def _prune(self, operation: Prune, now: int) -> int:
        index = self.indexes.get(operation.user, {})
        gone = [
            id
            for id, score in operation.entries
            if index.get(id) == score and now - score >= PRUNE_AGE
        ]
        for id in gone:
            del index[id]
        return len(gone)

    def _describe(self, id: str, now: int) -> Description | None:
        held = self.hashes.get(id, Hash())
        if PROOF not in held:
            return None
        user, info = held.get(USER), b"".join(held.get(name, b"") for name in INFO)
        return Description(
            id,
            None if user is None else user.decode(),
            held.number(CREATED) or 0,
            held.number(SEEN) or 0,
            held.expires,
            held.number(LOGIN),
            info,
            held.facts,
            now,
        )

    def _inspect(self, id: str, now: int) -> dict[str, bytes] | None:
        held = self.hashes.get(id, Hash())
        return keys_of(held, now) if PROOF in held else None


class AnsweredRead:
    """A read that was carried out when it was sent."""

    def __init__(self, answer: Reply) -> None:
        self._answer = answer

    def result(self, operation: Read) -> Reply:
        return self._answer

    def cancel(self) -> None:
        """Nothing is under way."""


def _newest_first(entry: tuple[str, int]) -> tuple[int, str]:
    return -entry[1], entry[0]
