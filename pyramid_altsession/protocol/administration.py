"""Administration: listing, describing and ending sessions by their public handles.

Every call is a generator of steps.
"""

import secrets
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

from .fields import Description, Timing
from .lifecycle import Invalidate, Login, Touch
from .messages import Describe, End, Inspect, Listing, Prune, Read, Reply, Revoke, Scan, Write
from .steps import Steps
from .token import Claim, Token, new_verifier
from .verbs import Remove, Set

T = TypeVar("T")
Entry = tuple[str, int]
"""An entry of a user's index: session id, and time of login in ms."""

MANY = 500
"""How many sessions are described, or ended, in one packet. Between packets the server can serve
others.
"""
SAMPLE = 64
"""Entries of a user's index that are looked at when it has grown."""


def _packets(items: list[T]) -> Iterator[tuple[T, ...]]:
    for start in range(0, len(items), MANY):
        yield tuple(items[start : start + MANY])


def describe(ids: Iterable[str]) -> Steps[list[Description | None]]:
    """The description of each session, None if it ended."""
    found: list[Description | None] = []
    for part in _packets(list(ids)):
        found += (yield Describe(part)).values
    return found


def read_data(ids: Iterable[str], *, opened: bool = False) -> Steps[list[dict[str, bytes] | None]]:
    """For each id, the keys and values of its session, None if it ended."""
    found: list[dict[str, bytes] | None] = []
    for part in _packets(list(ids)):
        found += (yield Inspect(part, opened)).values
    return found


def live_sessions(user: str) -> Steps[list[Description]]:
    """A user's sessions, newest login first. Removes old entries of ended sessions."""
    return (yield from survey(user)).live


class Survey(NamedTuple):
    """The content of a user's index: live sessions, ids of sessions that are over for good, and the
    number of other entries, whose logins may still be under way.
    """

    live: list[Description]
    ended: tuple[str, ...]
    entering: int


def survey(user: str) -> Steps[Survey]:
    """Look at every session that the user's index lists. Removes old entries of ended sessions."""
    listing = yield Listing(user)
    entries = listing.values
    known = yield from describe([id for id, _ in entries])
    # The hash decides: a login under way has an entry and no session yet, and a session that
    # another user has taken over may have one too.
    found = [each for each in known if each is not None and each.user == user]
    yield from prune(user, stale_entries(entries, known, user))
    live = {each.id for each in found}
    entering = listing.entering - live
    ended = tuple([id for id, _ in entries if id not in live and id not in entering])
    return Survey(found, ended, len(entering))


def prune(user: str, ended: list[Entry]) -> Steps[None]:
    """Remove entries of ended sessions that are old enough."""
    for part in _packets(ended):
        yield Prune(user, part)


def prune_some(user: str) -> Steps[None]:
    """Look at some entries of the user's index and remove those of ended sessions, so that logins
    without a logout do not make it grow for ever. At most three round trips.
    """
    entries = (yield Listing(user, SAMPLE)).values
    known = yield from describe([id for id, _ in entries])
    yield from prune(user, stale_entries(entries, known, user))


def stale_entries(entries: list[Entry], known: list[Description | None], user: str) -> list[Entry]:
    """Entries whose session is not this user's: the session has ended, or its login was never
    completed.
    """
    both = zip(entries, known, strict=True)
    return [entry for entry, each in both if each is None or each.user != user]


def some_sessions(cursor: int) -> Steps[tuple[int, list[Description]]]:
    """A part of all sessions, and the cursor for the next part: 0 begins and ends the walk. From
    beginning to end it gives every session, some perhaps twice."""
    following, ids = (yield Scan(cursor)).values
    known = yield from describe(ids)
    return following, [each for each in known if each is not None]


class Ended(list[str]):
    """Ids of the sessions that were ended. ``confirmed``: False if a replica had to confirm the
    ends, and none did.
    """

    confirmed = True


def end_sessions(
    user: str | None, ids: list[str], timing: Timing, *, durable: bool = False
) -> Steps[Ended]:
    """End sessions of one user (None: of any user) whatever their verifiers are, many in one
    packet. Returns the sessions that were ended.
    """
    nonce = secrets.token_bytes(16)
    ended = Ended()
    for part in _packets(ids):
        reply = yield End(user, part, nonce, timing, durable)
        ended += [id for id, over in zip(part, reply.values, strict=True) if over]
        ended.confirmed = ended.confirmed and reply.confirmed
    return ended


def end_all_sessions(
    user: str, timing: Timing, *, keep: str | None, durable: bool = False
) -> Steps[Ended]:
    """End all sessions of a user but the one with the id ``keep``. Returns the sessions that were
    ended.
    """
    revoked = yield Revoke(user, keep, durable)
    entries = revoked.values
    ended = yield from end_sessions(user, [id for id, _ in entries], timing, durable=durable)
    ended.confirmed = ended.confirmed and revoked.confirmed
    over = set(ended)
    if ended.confirmed:  # otherwise another call has to find them
        yield from prune(user, [entry for entry in entries if entry[0] not in over])
    return ended


def end_session(id: str, timing: Timing, user: str | None = None) -> Steps[Reply]:
    """End a session whatever its verifier is; with ``user``, only if it is this user's."""
    life = Invalidate(secrets.token_bytes(16), user or "", told=False)
    return (yield Write(Claim(id, b""), (), timing, user=user, anybody=True, life=life))


def exercise_every_right(timing: Timing) -> Steps[None]:
    """Make a session, sign it in and end it, so that each right which sessions need is used once.
    The session is in no list, is told to nobody, and ends by itself after five seconds.
    """
    token = Token.new()
    user = f"check-{token.id}"
    claim = Claim(user, token.claim.proof)
    timing = timing._replace(tti=5_000, interval=0, lifetime=5_000, window=1, notify=b"")
    login = Login(new_verifier(), user, None, timing.lifetime, limit=1)
    yield Read((claim,), None, timing)
    yield Write(claim, (Set("key", b"1"), Remove("other")), timing, create=True)
    yield Write(claim, (), timing, user=user, life=login)
    yield Write(Claim(claim.id, login.proof), (), timing, user=user, life=Touch())
    yield Listing(user)
    yield Listing(user, 1)
    yield Prune(user, ((claim.id, 0),))
    yield Write(claim, (), timing, user=user, anybody=True, life=Invalidate(b"check", user))
