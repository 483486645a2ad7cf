"""Sessions of users, seen and ended by their public handles: what administration needs."""

import secrets
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from .fields import Description, State, Timing
from .lifecycle import Invalidate
from .messages import Describe, End, Listing, Prune, Revoke, Scan, Write
from .token import Claim

if TYPE_CHECKING:
    from ..interfaces import Store

T = TypeVar("T")

MANY = 500
"""Sessions described, or ended, in one packet: others get their turn on the server in between."""
SAMPLE = 64
"""Entries of a user's index that are looked at when it has grown."""


def _packets(items: list[T]) -> Iterator[tuple[T, ...]]:
    for start in range(0, len(items), MANY):
        yield tuple(items[start : start + MANY])


def described(store: "Store", ids: Iterable[str]) -> Iterator[tuple[str, Description | None]]:
    """Each id with what is known of its session, None when it ended."""
    for part in _packets(list(ids)):
        yield from zip(part, store.execute(Describe(part)).values, strict=True)


def live_sessions(store: "Store", user: str) -> list[Description]:
    """A user's sessions, newest login first. Old entries of ended ones are forgotten."""
    return survey(store, user)[0]


def survey(store: "Store", user: str) -> tuple[list[Description], int]:
    """The live sessions, and how many entries of ended ones are left."""
    entries = store.execute(Listing(user)).values
    found, ended = [], []
    for (id, score), (_, known) in zip(
        entries, described(store, [id for id, _ in entries]), strict=True
    ):
        # The hash decides: the entry of a login under way, or of another user's by now, is none.
        if known is not None and known.user == user:
            found.append(known)
        elif known is None:
            ended.append((id, score))
    return found, len(entries) - len(found) - prune(store, user, ended)


def prune(store: "Store", user: str, ended: list[tuple[str, int]]) -> int:
    """Forget entries (session id, time of login in ms) of ended sessions; how many were old
    enough."""
    return sum([store.execute(Prune(user, part)).values for part in _packets(ended)])


def prune_some(store: "Store", user: str) -> None:
    """Look at some entries of the user's index and forget those of ended sessions, so that logins
    without a logout do not let it grow for ever. At most three round trips."""
    entries = store.execute(Listing(user, SAMPLE)).values
    known = described(store, [id for id, _ in entries])
    pairs = zip(entries, known, strict=True)
    ended = [entry for entry, (_, found) in pairs if found is None]
    if ended:
        prune(store, user, ended)


def all_sessions(store: "Store") -> Iterator[Description]:
    """Every session there is from beginning to end of the walk, some perhaps twice."""
    cursor = 0
    while True:
        cursor, ids = store.execute(Scan(cursor)).values
        yield from (known for _, known in described(store, ids) if known is not None)
        if cursor == 0:
            return


def end_sessions(store: "Store", user: str, ids: list[str], timing: Timing) -> list[str]:
    """End sessions of one user whatever their verifiers are, many to a packet; those that were
    ended."""
    nonce = secrets.token_bytes(16)
    ended: list[str] = []
    for part in _packets(ids):
        done = store.execute(End(user, part, nonce, timing)).values
        ended += [id for id, over in zip(part, done, strict=True) if over]
    return ended


def end_all_sessions(store: "Store", user: str, timing: Timing, *, keep: str | None) -> list[str]:
    """End all sessions of a user but the one with the id ``keep``; those that were ended."""
    entries = store.execute(Revoke(user, keep)).values
    ended = end_sessions(store, user, [id for id, _ in entries], timing)
    over = set(ended)
    prune(store, user, [entry for entry in entries if entry[0] not in over])
    return ended


def end_session(store: "Store", id: str, timing: Timing, user: str | None = None) -> bool:
    """End a session whatever its verifier is; with ``user``, only if it is this user's."""
    life = Invalidate(secrets.token_bytes(16), user or "", told=False)
    reply = store.execute(Write(Claim(id, b""), (), timing, user=user, anybody=True, life=life))
    return reply.state is State.LIVE and reply.done == 1
