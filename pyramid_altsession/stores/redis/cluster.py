"""Sessions on a cluster, in steps. Each key has its own node: a session's, and its user's index."""

import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

import redis
from msgspec.structs import replace
from redis.crc import key_slot

from ...protocol.administration import prune_some
from ...protocol.fields import DEADLINE, LOGIN, PROOF, USER, State
from ...protocol.lifecycle import Invalidate, Login
from ...protocol.messages import (
    REVOKED,
    Describe,
    End,
    Inspect,
    Listing,
    Operation,
    Read,
    Reply,
    Revoke,
    Scan,
    Write,
)
from ...protocol.steps import Prefetch, advance
from . import exchanges
from .ending import Ending
from .exchanges import Address, Exchange, First, Send, Steps
from .failures import NotConnected
from .leftovers import Leftovers
from .scripts import ENTER_SCRIPT
from .slots import SlotMap, Walk
from .wire import (
    first_packet,
    index_key,
    milliseconds,
    no_errors,
    pack_command,
    pack_many,
    pack_read,
    unpack_many,
    unpack_read,
)

OVER = (State.DEAD, State.ENDED, State.OWED, State.OTHER_USER, State.REUSED)
"""States after which a session's id will not be used any more."""
FROZEN = 30.0
"""Seconds after which a login that was held up gives up: its entry might be pruned."""
ENTERING = 10_000
"""Milliseconds in which an entry without a session may belong to a login under way."""
MOST_CHECKED = 10_000
"""Number of sessions for which the time of the last look at the index is remembered."""

Seconds = float
NO_LIMIT, LIMITED, REVOKED_SINCE = 0, -1, -2


class ClusterSteps:
    """The steps of each operation.

    A user's index has another node than the user's session. So a login enters the session into the
    index first, and an end leaves it last: whatever fails in between, a user can find every
    signed-in session. A superfluous entry is harmless, because the session itself decides.
    """

    def __init__(
        self, seeds: Iterable[Address], prefix: bytes, wait: exchanges.Milliseconds = 500
    ) -> None:
        self.map = SlotMap(tuple(seeds))
        self._walk = Walk(self.map)
        self._prefix = prefix
        self.wait = wait
        self._checked: dict[str, Seconds] = {}
        self._leftovers = Leftovers()
        self._primaries = self.map.primaries
        """Those of the last login."""

    def first(self, operation: Operation) -> First | None:
        match operation:
            case Read(claims=(claim,)):
                address = self.map.known(self._key(claim.id))
                return address and first_packet(operation, self._prefix, address)
            case Write(life=Invalidate()):
                return None  # the index of the session's user may follow
            case Write(user=None) | Write(life=None) if not operation.durable:
                address = self.map.known(self._key(operation.claim.id))
                if address and (operation.user is None or not self._unlisted(operation)):
                    return first_packet(_alone(operation), self._prefix, address)
        return None

    def execute(self, operation: Operation, first: First | None = None) -> Steps[Reply]:
        address = first and first[0]
        match operation:
            case Read():
                return (yield from self._read(operation, address))
            case Write() if address:
                return (yield from self._write(operation, address))
            case Write(user=str(user), life=Login() as life):
                return (yield from self._noting(user, self._login(operation, life, user)))
            case Write(life=Invalidate()):
                return (yield from self._invalidate(operation))
            case Write(user=str(user)):
                return (yield from self._listed(operation, user))
            case Write():
                return (yield from self._write(operation))
            case End(user=str(user)):
                return (yield from self._noting(user, self._end(operation)))
            case End():
                return (yield from self._end(operation))
            case Describe() | Inspect():
                return (yield from self._described(operation))
            case Scan():
                return (yield from self._scan(operation))
            case Revoke(durable=True):
                durably = self._durably(index_key(self._prefix, operation.user))
                reply = yield from exchanges.many(operation, self._prefix, durably)
                return replace(reply, confirmed=durably.done)
            case Listing(sample=0):
                return (yield from self._listing(operation))
            case _:
                send = self._sender_to(index_key(self._prefix, operation.user))
                return (yield from exchanges.many(operation, self._prefix, send))

    def _key(self, id: str) -> bytes:
        return self._prefix + id.encode()

    def _sender_to(self, key: bytes, address: Address | None = None) -> Send:
        return partial(self.map.send, key, address=address)

    def _read(self, operation: Read, address: Address | None) -> Steps[Reply]:
        """Reads several claims one after the other, because each has its own node."""
        states: list[State] = []
        for which, claim in enumerate(operation.claims):
            one = replace(operation, claims=(claim,))
            packet, count = pack_read(one, self._prefix)
            replies = yield from self.map.send(self._key(claim.id), packet, count, True, address)
            reply = unpack_read(one, replies)
            if reply.state is State.LIVE:
                return replace(reply, which=which)
            states += reply.values
        return Reply(State.DEAD, states)

    def _write(self, operation: Write, address: Address | None = None) -> Steps[Reply]:
        key, alone = self._key(operation.claim.id), _alone(operation)
        if not operation.durable:
            return (yield from exchanges.write(alone, self._prefix, self._sender_to(key, address)))
        send = self._durably(key)
        reply = yield from exchanges.write(alone, self._prefix, send)
        return replace(reply, confirmed=send.done)

    def _durably(self, key: bytes) -> exchanges.Durably:
        send = partial(self.map.send, key, tail=exchanges.Durably.REPLIES)
        return exchanges.Durably(send, key, self._prefix, self.wait)

    # -- the index of a user

    def _login(self, operation: Write, life: Login, user: str) -> Steps[Reply]:
        id, began = operation.claim.id, time.monotonic()
        entries = yield from self._enter(user, id, b"", life.lifetime, life.limit, life.ended)
        if entries == LIMITED:
            return Reply(State.SESSION_LIMIT)
        if time.monotonic() - began > FROZEN:
            raise NotConnected("this process was held up in the middle of a login")
        alone = replace(operation, life=replace(life, limit=NO_LIMIT))
        reply = yield from self._write(alone)
        if reply.state in OVER:  # otherwise the entry may belong to a call that was faster
            yield from self._leave(user, [id])
        if reply.state is not State.LIVE:
            return reply
        yield from self._tidy()
        self._leftovers.signed_in(user)
        return replace(reply, done=entries)

    def _invalidate(self, operation: Write) -> Steps[Reply]:
        """If the caller does not know the session's user, the reply does."""
        id, user, write = operation.claim.id, operation.user, self._write(operation)
        reply = yield from (write if user is None else self._noting(user, write))
        if reply.ended:
            self._checked.pop(id, None)
            if user is None and reply.user is not None:
                user = reply.user.decode()
            if user is not None:
                yield from self._leave(user, [id], reply.confirmed)
        return reply

    def _listed(self, operation: Write, user: str) -> Steps[Reply]:
        """Before a write, make sure that the user's index lists the session, because an evicting
        server may have dropped the index. Done with every step of the session's life, and once in a
        touch interval.
        """
        if operation.life is None and not self._unlisted(operation):
            return (yield from self._write(operation))
        now = time.monotonic()
        try:
            revoked = yield from self._revoked(operation, user)
        except redis.RedisError:
            revoked = False  # the session's own node works; the next write looks again
        else:
            if len(self._checked) >= MOST_CHECKED:
                self._checked.clear()
            self._checked[operation.claim.id] = now
        if not revoked:
            return (yield from self._write(operation))
        over = Invalidate(b"revoked", user, told=False)
        reply = yield from self._write(replace(operation, verbs=(), anybody=True, life=over))
        return replace(reply, state=State.ENDED, values=(), done=0, left=None)

    def _unlisted(self, operation: Write) -> bool:
        """Whether it is time to check that the user's index lists the session."""
        ago = time.monotonic() - self._checked.get(operation.claim.id, -1e9)
        return 1000 * ago >= operation.timing.interval

    def _revoked(self, operation: Write, user: str) -> Steps[bool]:
        """Whether "log out everywhere" came after the session's login. If not, it is listed now."""
        id = operation.claim.id
        index, key = index_key(self._prefix, user), self._key(id)
        packet = pack_command((b"ZMSCORE", index, id.encode(), REVOKED.encode()))
        ((listed, _),) = no_errors((yield from self.map.send(index, packet, 1, True)))
        if listed is not None:
            return False
        names = [name.encode() for name in (PROOF, USER, LOGIN, DEADLINE)]
        packet = pack_command((b"HMGET", key, *names)) + pack_command((b"TIME",))
        held, clock = no_errors((yield from self.map.send(key, packet, 2, True)))
        _, owner, login, deadline = held
        if None in held or owner != user.encode():
            return False
        lasts = max(int(deadline) - milliseconds(clock), 1)
        entries = yield from self._enter(user, id, login, lasts, NO_LIMIT)
        return entries == REVOKED_SINCE

    def _enter(
        self, user: str, id: str, login: bytes, lasts: int, limit: int, ended: Iterable[str] = ()
    ) -> Steps[int]:
        index = index_key(self._prefix, user)
        arguments = (id.encode(), login, b"%d" % lasts, b"%d" % limit)
        others = [other.encode() for other in ended]
        packet = pack_command((b"EVAL", ENTER_SCRIPT, b"1", index, *arguments, *others))
        (entries,) = no_errors((yield from self.map.send(index, packet, 1, True)))
        return int(entries)

    def _leave(self, user: str, ids: Iterable[str], confirmed: bool = True) -> Steps[None]:
        """Remove the entries of ended sessions. If this fails, or if no replica has confirmed an
        end, so that the session may come back, the entries stay, and later logins prune them.
        """
        if not confirmed:
            self._leftovers.note(user)
            return
        index = index_key(self._prefix, user)
        packet = pack_command((b"ZREM", index, *[id.encode() for id in ids]))
        try:
            yield from self.map.send(index, packet, 1, True)
        except BaseException as error:  # a cancellation too
            self._leftovers.note(user)
            if not isinstance(error, redis.RedisError):
                raise

    def _noting(self, user: str, steps: Steps[Reply]) -> Steps[Reply]:
        """Carry out the steps, and note the user if they fail, because an entry without a session
        may be left.
        """
        try:
            return (yield from steps)
        except BaseException:  # a cancellation too
            self._leftovers.note(user)
            raise

    def _tidy(self) -> Steps[None]:
        """Remove the entries of one user that a failed call or a failover left more than a minute
        ago. The login that does this has succeeded, even if this fails.
        """
        if self._primaries != self.map.primaries:
            gone = set(self._primaries).difference(self.map.primaries)
            self._primaries = self.map.primaries
            if gone:  # otherwise a node joined, or slots moved, and nothing is lost
                self._leftovers.failed_over()
        user = self._leftovers.due()
        if user is None:
            return
        call, reply = prune_some(user), None
        try:
            while True:
                operation = advance(call, reply)
                assert not isinstance(operation, Prefetch)  # it asks for nothing in advance
                reply = yield from self.execute(operation)
        except StopIteration:
            return
        except redis.RedisError:
            self._leftovers.failed(user)

    def _listing(self, operation: Listing) -> Steps[Reply]:
        """Entries are written before their sessions: which entries are so young that the login may
        be under way?
        """
        packet, count = pack_many(operation, self._prefix)
        packet += pack_command((b"TIME",))
        index = index_key(self._prefix, operation.user)
        *replies, clock = no_errors((yield from self.map.send(index, packet, count + 1, True)))
        reply, now = unpack_many(operation, self._prefix, replies), milliseconds(clock)
        young = [id for id, entered in reply.values if abs(now - entered) < ENTERING]
        return replace(reply, entering=frozenset(young))

    # -- many sessions

    def _by_node(self, ids: Iterable[str]) -> Steps[dict[Address, list[str]]]:
        nodes: dict[Address, list[str]] = {}
        for id in ids:
            address = yield from self.map.address(key_slot(self._key(id)))
            nodes.setdefault(address, []).append(id)
        return nodes

    def _end(self, operation: End) -> Steps[Reply]:
        """One packet to each node. Then, if a packet was redirected or failed, its sessions one
        after the other: those of the other nodes are ended whatever becomes of these. Unconfirmed
        ones stay in the index, so that another call finds them.
        """
        end = Ending(self._prefix, self.wait if operation.durable else 0)
        writes = {write.claim.id: replace(write, user=None) for write in operation.writes()}
        ended: dict[str, bool] = {}
        for address, ids in (yield from self._by_node(operation.ids)).items():
            part = [writes[id] for id in ids]
            with suppress(redis.RedisError):
                done = yield from end(part, partial(_say_to, address))
                ended |= zip(ids, done, strict=True)
        for id in [id for id in writes if id not in ended]:
            (ended[id],) = yield from end([writes[id]], partial(self.map.send, self._key(id)))
        over = [id for id, done in ended.items() if done]
        if over and operation.user is not None:  # otherwise the next logins prune the entries
            yield from self._leave(operation.user, over, end.confirmed)
        values = [ended[id] for id in operation.ids]
        return Reply(State.LIVE, values, confirmed=end.confirmed)

    def _described(self, operation: Describe | Inspect) -> Steps[Reply]:
        """One packet to each node; if it was redirected or failed, one to each session's node."""
        found: dict[str, Any] = {}
        for address, ids in (yield from self._by_node(operation.ids)).items():
            part = replace(operation, ids=tuple(ids))
            try:
                reply = yield from exchanges.many(part, self._prefix, partial(_say_to, address))
                found |= zip(ids, reply.values, strict=True)
            except redis.RedisError:
                for id in ids:
                    send = self._sender_to(self._key(id))
                    one = replace(operation, ids=(id,))
                    reply = yield from exchanges.many(one, self._prefix, send)
                    found[id] = reply.values[0]
        return Reply(State.LIVE, [found[id] for id in operation.ids])

    def _scan(self, operation: Scan) -> Steps[Reply]:
        """One node after the other. Sessions come twice if their node was replaced, or if their
        slot moves to a node that is yet to come. If it moves to one that is through, they may be
        missing; all others come.
        """
        place = yield from self._walk.place(operation.cursor)
        if place is None:
            return Reply(State.LIVE, (0, []))
        node, own = place
        packet, count = pack_many(Scan(own), self._prefix)
        replies = yield Exchange(node, packet, count)
        own, ids = unpack_many(Scan(own), self._prefix, no_errors(replies)).values
        following = yield from self._walk.following(operation.cursor, node, own)
        return Reply(State.LIVE, (following, ids))


def _alone(operation: Write) -> Write:
    """The same write without the index, which is on another node."""
    return operation if operation.user is None else replace(operation, user=None)


def _say_to(
    address: Address, packet: bytes, replies: int, repeatable: bool, tail: int = 0
) -> Steps[list[Any]]:
    answers = yield Exchange(address, packet, replies)
    no_errors(answers[: replies - tail])
    return answers
