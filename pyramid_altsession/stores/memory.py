"""Sessions in the process, with the semantics of the server: for unit tests.

``apply`` is write.lua in Python; the contract suite holds the two together.
"""

import threading
import time
from collections.abc import Callable

from ..operations import (
    CREATED,
    DEAD_PROOFS,
    DEADLINE,
    OWN_TTI,
    PROOF,
    SEEN,
    TOMBSTONE,
    DataVerb,
    Invalidate,
    Operation,
    Raw,
    Read,
    Refused,
    Renew,
    Reply,
    State,
    Write,
    judge,
    remember_dead,
)


class Hash(dict[str, bytes]):
    """Fields of one key, and when it ends (ms)."""

    expires: int = 0

    def ours(self) -> list[Raw]:
        return [self.get(name) for name in (PROOF, DEAD_PROOFS, DEADLINE, TOMBSTONE)]

    def number(self, name: str) -> int | None:
        raw = self.get(name)
        return None if raw is None else int(raw)


class MemoryStore:
    """The store contract on a dict. ``clock`` gives seconds, as ``time.time`` does."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.hashes: dict[str, Hash] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "<MemoryStore>"

    def close(self) -> None:
        """Nothing is open; the sessions stay."""

    def carry_out(self, operation: Operation) -> Reply:
        with self._lock:
            now = round(self.clock() * 1000)
            for id in [id for id, held in self.hashes.items() if held.expires <= now]:
                del self.hashes[id]
            if isinstance(operation, Read):
                return self._read(operation, now)
            return apply(self.hashes, operation, now)

    def _read(self, operation: Read, now: int) -> Reply:
        states = []
        for which, claim in enumerate(operation.claims):
            held = self.hashes.get(claim.id, Hash())
            state = judge(claim, held.ours(), now, operation.timing.window)
            if state is State.LIVE:
                if operation.fields is None:
                    values: object = {n: v for n, v in held.items() if n[0] != "@" or n == CREATED}
                else:
                    values = [held.get(name) for name in operation.fields]
                tti, deadline = held.number(OWN_TTI), held.number(DEADLINE)
                return Reply(state, values, now, held.expires - now, which, tti, deadline)
            states.append(state)
        return Reply(State.DEAD, states)


def apply(hashes: dict[str, Hash], write: Write, now: int) -> Reply:
    """All verbs or none, on a live session; else the reason."""
    id, timing, first = write.claim.id, write.timing, next(iter(write.verbs), None)
    held = hashes.get(id, Hash())
    if isinstance(first, Renew) and held.get(PROOF) == first.proof and not write.create:
        return Reply(State.LIVE, [1], now, held.expires - now)
    if isinstance(first, Invalidate) and held.get(TOMBSTONE) == first.nonce:
        return Reply(State.LIVE, [1], now, held.expires - now)
    ours = held.ours()
    if held.expires - now > timing.window:
        ours[3] = None  # a tombstone stands for the window, also when the clock was set back
    state = judge(write.claim, ours, now, write.window)
    deadline, seen = held.number(DEADLINE), held.number(SEEN)
    create = write.create and not held
    if create:
        deadline = now + timing.lifetime if timing.lifetime else None
    elif state is not State.LIVE:
        return Reply(state, (), now)
    elif deadline is not None and seen is not None and now < seen:
        deadline -= seen - now  # the clock was set back: the end moves with it
        if now >= deadline:
            del hashes[id]
            return Reply(State.DEAD, (), now)
    draft = dict(held)
    if create:
        draft |= {PROOF: write.claim.proof, CREATED: b"%d" % now}
    results = []
    ended: Invalidate | None = None
    renewed: Renew | None = None
    for place, verb in enumerate(write.verbs):
        if isinstance(verb, DataVerb):
            try:
                value, result = verb.apply(draft.get(verb.name))
            except Refused:
                left = held.expires - now if held else None
                return Reply(State.REFUSED, place, now, left)
            draft.pop(verb.name, None)
            if value is not None:
                draft[verb.name] = value
        else:
            result = 1
            ended = verb if isinstance(verb, Invalidate) else ended
            renewed = verb if isinstance(verb, Renew) else renewed
        results.append(result)
    if ended is not None:
        hashes.pop(id, None)
        if timing.window:
            hashes[id] = Hash({TOMBSTONE: ended.nonce})
            hashes[id].expires = now + timing.window
        return Reply(State.LIVE, results, now)
    if renewed is not None:
        draft[DEAD_PROOFS] = remember_dead(draft.get(DEAD_PROOFS), draft[PROOF], now)
        draft[PROOF] = renewed.proof
    if deadline is not None:
        draft[DEADLINE] = b"%d" % deadline
    draft[SEEN] = b"%d" % now
    times = timing.own(held.number(OWN_TTI))
    kept = hashes[id] = Hash(draft)
    kept.expires = now + times.tti + times.interval
    if deadline is not None:
        kept.expires = min(kept.expires, deadline)
    return Reply(State.LIVE, results, now, kept.expires - now)
