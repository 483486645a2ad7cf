"""Sessions on a Redis or Valkey server: one packet for a read, one script for a write."""

import base64
import hashlib
import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from functools import lru_cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry

from ..errors import AltSessionError, CorruptValue, StoreFull, StoreUnavailable
from ..keys import LONGEST
from ..operations import (
    CREATED,
    FACTS,
    INFO,
    LOGIN,
    PREDECESSOR,
    PROOF,
    PRUNE_AGE,
    REVOKED,
    SEEN,
    USER,
    Describe,
    Description,
    End,
    Facts,
    Listing,
    Operation,
    Prune,
    Read,
    Reply,
    Revoke,
    Scan,
    State,
    Write,
    creates,
    judge,
)
from ..settings import RedisSettings
from ..token import ID_LENGTH
from .embedded import EmbeddedServer
from .lease import Lease, NotConnected, Sent, Timed

log = logging.getLogger("pyramid_altsession")

SCRIPT = resources.files(__package__).joinpath("write.lua").read_bytes()
SCRIPT_SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()

PRUNE_SCRIPT = resources.files(__package__).joinpath("prune.lua").read_bytes()
REVOKE_SCRIPT = resources.files(__package__).joinpath("revoke.lua").read_bytes()

_OURS = tuple(name.encode() for name in FACTS)
_BEHIND_OURS = len(_OURS)
_DESCRIBED = tuple(
    name.encode() for name in (PROOF, PREDECESSOR, USER, CREATED, SEEN, LOGIN, *INFO)
)

# Bytes only: with numbers it can crash when a signal handler raises.
pack_command: Callable[[tuple[bytes, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]

_OUR_MISTAKES = (
    "user_script:",  # an error within a script
    "Error compiling script",
    "wrong number of arguments",
    "syntax error",
)
"""How error replies begin (without ERR) that no server, proxy or plan is to blame for."""

_FORBIDDEN = re.compile(r"The user executing the script can't .* on @user_script:(\d+)")
_CALL = re.compile(rb"redis\.call\('(\w+)'")

LULL = 5.0
"""Seconds in which an outage that begins again is not logged again."""


def connections(
    settings: RedisSettings, embedded: EmbeddedServer | None = None
) -> Callable[[], Timed]:
    """What builds an unconnected connection, with all of redis-py's own extras switched off.

    Its retries would execute a command several times; RESP3, driver names and maintenance
    notifications would cost round trips at each connect and bring pushes nobody asked for.
    """
    common: dict[str, Any] = {
        "db": settings.db,
        "username": settings.username,
        "password": settings.password,
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.connect_timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }
    if embedded is not None:
        find = embedded.socket
        return lambda: UnixConnection(find, **common)
    if settings.socket is not None:
        path = settings.socket
        return lambda: UnixConnection(lambda: path, **common)
    common |= {"host": settings.host, "port": settings.port}
    if not settings.ssl:
        return lambda: TCPConnection(**common)
    common |= {
        "ssl_ca_certs": settings.ssl_ca_certs,
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
        "ssl_check_hostname": settings.ssl_check_hostname,
    }
    return lambda: TLSConnection(**common)


class TCPConnection(Timed, Connection):
    """A connection over TCP."""


class TLSConnection(Timed, SSLConnection):
    """A connection over TLS."""


class UnixConnection(Timed, UnixDomainSocketConnection):
    """A connection to the socket that ``find`` gives each time it connects. The time that takes,
    as an embedded server may have to be started, is not counted."""

    host = ""  # redis-py forgot this one

    def __init__(self, find: Callable[[], str], **common: Any) -> None:
        super().__init__(**common)  # type: ignore[no-untyped-call]
        self._find = find

    def _connect(self) -> Any:
        try:
            return self._connect_there()
        except (ConnectionRefusedError, FileNotFoundError):
            return self._connect_there()  # the server went away since: another one may be there

    def _connect_there(self) -> Any:
        began = time.monotonic()
        self.path = self._find()
        self.end += time.monotonic() - began
        return super()._connect()


class RedisStore:
    """The store contract on one server. Thread-safe and fork-safe; connects when first used."""

    def __init__(
        self, build: Callable[[], Timed], *, prefix: str, name: str, limit: int,
        wait: float, hint: str = "", embedded: EmbeddedServer | None = None,
    ) -> None:  # fmt: skip
        self._embedded = embedded
        self._prefix = prefix.encode() + b":"
        self._name = name
        self._hint = hint
        self._lease = Lease(build, limit=limit, wait=wait)
        self._trouble: _Need | None = None
        self._told = -math.inf

    @classmethod
    def from_settings(cls, settings: RedisSettings, prefix: str) -> "RedisStore":
        embedded = None
        if settings.scheme == "embedded":
            embedded = EmbeddedServer(urlsplit(settings.url or "").path or None)
        return cls(
            connections(settings, embedded),
            embedded=embedded,
            prefix=prefix,
            name=settings.place,
            limit=settings.max_connections,
            wait=settings.timeout,
            hint="" if settings.configured else _HINT,
        )

    def __repr__(self) -> str:
        return f"<RedisStore {self._name}>"

    def carry_out(self, operation: Operation, end: float | None = None) -> Reply:
        """One round trip; a second one when a connection broke or the script was not loaded.
        Both are over by ``end``, or within the time that a call has."""
        end = self._lease.until() if end is None else end
        try:
            match operation:
                case Read():
                    packet, count = pack_read(operation, self._prefix)
                    replies = self._exchange(operation, packet, count, end)
                    reply = unpack_read(operation, replies)
                case Write():
                    reply = self._write(operation, end)
                case End():
                    reply = self._end(operation, end)
                case _:
                    packet, count = pack_many(operation, self._prefix)
                    replies = self._exchange(operation, packet, count, end)
                    reply = unpack_many(operation, self._prefix, _no_errors(replies))
        except redis.RedisError as error:
            raise self._failure(operation, error) from error
        if self._trouble is not None:
            self._recovered(operation)
        return reply

    def send(self, operation: Read) -> "SentRead":
        """The packet goes out; its reply is read later."""
        packet, count = pack_read(operation, self._prefix)
        try:
            return SentRead(self, self._lease.send(packet, count))
        except redis.RedisError as error:
            raise self._failure(operation, error) from error

    def _receive(self, operation: Read, sent: Sent) -> Reply:
        """Its reply; a read that the connection lost is carried out once more."""
        end = self._lease.until()
        try:
            return unpack_read(operation, sent.receive(end))
        except redis.ConnectionError:
            return self.carry_out(operation, end)
        except redis.RedisError as error:
            raise self._failure(operation, error) from error

    def _write(self, operation: Write, end: float) -> Reply:
        (answer,) = self._exchange(operation, pack_write(operation, self._prefix), 1, end)
        if isinstance(answer, redis.exceptions.NoScriptError):
            packet = pack_write(operation, self._prefix, load=True)
            (answer,) = self._exchange(operation, packet, 1, end)
        return unpack_write(answer)

    def _end(self, operation: End, end: float) -> Reply:
        """As for single writes; the first one of the packet brings the script along."""
        writes = operation.writes()
        packet = b"".join([pack_write(w, self._prefix, load=w is writes[0]) for w in writes])
        answers = self._exchange(operation, packet, len(writes), end)
        if any(isinstance(answer, redis.exceptions.NoScriptError) for answer in answers):
            answers = self._exchange(operation, packet, len(writes), end)
        replies = [unpack_write(answer) for answer in answers]
        return Reply(State.LIVE, [r.state is State.LIVE and r.done == 1 for r in replies])

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._lease.close()
        if self._embedded is not None:
            self._embedded.release()

    def _exchange(self, operation: Operation, packet: bytes, replies: int, end: float) -> list[Any]:
        try:
            return self._lease.exchange(packet, replies, end)
        except NotConnected:
            raise
        except redis.ConnectionError:
            # The server closed an idle connection, or restarted. What is harmless is repeated.
            if not operation.repeatable:
                raise
            return self._lease.exchange(packet, replies, end)

    def _failure(self, operation: Operation, error: redis.RedisError) -> Exception:
        """Our error for one of redis-py's. A mistake in this package is to be seen as it is;
        whatever else the server, or what stands before it, says instead of an answer is an outage.

        An outage is logged once for each change of state, and at most once in LULL: connections
        that fail beside others that serve would fill the log.
        """
        said = str(error) + _command_of(str(error), operation)
        if said.startswith("WRONGTYPE"):
            return CorruptValue("the session's key on the server holds no hash")
        if isinstance(error, redis.ResponseError) and said.startswith(_OUR_MISTAKES):
            raise error
        if isinstance(error, redis.exceptions.OutOfMemoryError):
            failure: AltSessionError = StoreFull(f"{self._name} is full: {said}")
        else:
            failure = StoreUnavailable(f"{self._name} does not serve: {said}")
        if isinstance(error, redis.exceptions.ReadOnlyError):
            self._lease.close()  # it has become a replica: connect anew, perhaps to the new primary
        now = time.monotonic()
        if self._trouble is None and now - self._told >= LULL:
            self._told = now
            self._trouble = _Need.of(operation)
            log.error("sessions: %s%s", failure, self._hint)
        return failure

    def _recovered(self, operation: Operation) -> None:
        # Reads may go on while writes are refused, and touches while the server is full: what
        # failed has to succeed.
        need = _Need.of(operation)
        if need >= self._trouble if self._trouble else need is _Need.READ:
            self._trouble = None
            log.warning("sessions: %s serves again", self._name)


def _command_of(said: str, operation: Operation) -> str:
    """Which command of a script the server's user may not run: Redis 7.0 only tells the line."""
    at = _FORBIDDEN.match(said)
    if at is None:
        return ""
    script = PRUNE_SCRIPT if isinstance(operation, Prune) else SCRIPT
    command = _CALL.search(script.splitlines()[int(at[1]) - 1])
    return f" ({command[1].decode()})" if command else ""


class SentRead:
    """A read under way on a server."""

    __slots__ = ("_sent", "_store")

    def __init__(self, store: RedisStore, sent: Sent) -> None:
        self._store = store
        self._sent = sent

    def reply(self, operation: Read) -> Reply:
        return self._store._receive(operation, self._sent)

    def drop(self) -> None:
        """The connection serves on where the reply has arrived; else it is closed."""
        if not self._sent.arrived:
            self._sent.close()
            return
        with suppress(redis.RedisError):
            self._sent.receive(self._store._lease.until())


class _Need(IntEnum):
    """What an operation needs of the server, beside an answer."""

    READ = 0
    WRITE = 1
    ROOM = 2

    @classmethod
    def of(cls, operation: Operation) -> "_Need":
        if isinstance(operation, Revoke | End | Prune):
            return cls.WRITE
        if not isinstance(operation, Write):
            return cls.READ
        return cls.ROOM if creates(operation.verbs, operation.life) else cls.WRITE


_HINT = (
    "; no server is configured: set altsession.redis.url, for development to embedded://,"
    " which starts a server of its own"
)


_TIMES = b"*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n*1\r\n$4\r\nTIME\r\n"
_HMGET = b"*%d\r\n$5\r\nHMGET\r\n$%d\r\n%b\r\n%b" + _TIMES


MOST_CACHED = 16
"""Fields of a read whose packed names are kept: 256 reads of so many long names are 5 MB."""


def _names(fields: tuple[str, ...]) -> tuple[int, bytes]:
    """How many arguments HMGET has for these fields, and those after the key, packed."""
    names = [*_OURS, *[name.encode() for name in fields]]
    packed = b"".join([b"$%d\r\n%b\r\n" % (len(name), name) for name in names])
    return 2 + len(names), packed


_cached_names = lru_cache(256)(_names)


def pack_read(operation: Read, prefix: bytes) -> tuple[bytes, int]:
    """HMGET (or HGETALL), PTTL and the server's TIME for each claim, in one packet; and how many
    replies it gets."""
    packet, replies, fields = b"", 0, operation.fields
    for claim in operation.claims:
        key = prefix + claim.id.encode()
        size = len(key)
        if fields is None:
            packet += pack_command((b"HGETALL", key)) + _TIMES % (size, key)
        else:
            count, names = (_names if fields[MOST_CACHED:] else _cached_names)(fields)
            packet += _HMGET % (count, size, key, names, size, key)
        replies += 3
    return packet, replies


def unpack_read(operation: Read, replies: Sequence[Any]) -> Reply:
    """The first live claim; else DEAD with the state of every claim."""
    states, timing = [], operation.timing
    for which, claim in enumerate(operation.claims):
        fetched, left, clock = replies[3 * which : 3 * which + 3]
        if not (fetched.__class__ is clock.__class__ is list and left.__class__ is int):
            _no_errors(replies)
        now = _milliseconds(clock)
        if operation.fields is None:
            held = dict(zip(fetched[::2], fetched[1::2], strict=True))
            facts = Facts(*[held.get(name) for name in _OURS])
            values: Any = {
                name.decode(errors="replace"): raw
                for name, raw in held.items()
                if name[:1] != b"@" or name == CREATED.encode()
            }
        else:
            facts, values = Facts(*fetched[:_BEHIND_OURS]), fetched[_BEHIND_OURS:]
        state = judge(claim, facts, now, timing.window, timing)
        if state is State.LIVE:
            remembered = None
            if facts.tti is not None and facts.deadline is not None:
                remembered = int(facts.deadline) - now
            return Reply(state, values, now, _left(left), which, facts, remembered)
        states.append(state)
    return Reply(State.DEAD, states)


def _milliseconds(clock: Sequence[bytes]) -> int:
    """TIME's reply: seconds and microseconds."""
    return int(clock[0]) * 1000 + int(clock[1]) // 1000


def _left(pttl: int) -> int | None:
    # The key may have ended between the commands: the fields were read while it lived.
    return None if pttl == -2 else pttl


@lru_cache(1024)
def _index(prefix: bytes, user: str) -> bytes:
    """The key of a user's index: no user id, whatever is in it, gets into a key or a log."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(user.encode()).digest())
    return prefix + b"user:" + digest.rstrip(b"=")


def pack_write(operation: Write, prefix: bytes, *, load: bool = False) -> bytes:
    """The script's call, by its hash or with its text; write.lua tells the arguments."""
    timing = operation.timing
    keys = [prefix + operation.claim.id.encode()]
    if operation.user is not None:
        keys.append(_index(prefix, operation.user))
    arguments = [
        *((b"EVAL", SCRIPT) if load else (b"EVALSHA", SCRIPT_SHA)),
        *(b"%d" % len(keys), *keys),
        operation.claim.proof,
        b"1" if operation.create else b"any" if operation.anybody else b"0" + operation.mark,
        b"%d" % timing.tti,
        b"%d" % timing.interval,
        b"%d" % timing.lifetime,
        b"%d" % timing.window,
        b"%d" % operation.window,
        b"%d" % timing.grace,
        b"1" if timing.reuse_ends else b"0",
        *((b"",) if operation.life is None else operation.life.wire()),
    ]
    for verb in operation.verbs:
        arguments += verb.wire()
    return pack_command(tuple(arguments))


def unpack_write(answer: Any) -> Reply:
    state, now, left, remembered, user, since, done, values = _no_errors([answer])[0]
    remembered = None if remembered < 0 else remembered
    return Reply(State(state), values, now, _left(left), 0, None, remembered, user, since, done)


def pack_many(operation: Operation, prefix: bytes) -> tuple[bytes, int]:
    """An operation about many sessions, and how many replies it gets."""
    match operation:
        case Listing(user, sample):
            key = _index(prefix, user)
            if sample:
                return pack_command((b"ZRANDMEMBER", key, b"%d" % sample, b"WITHSCORES")), 1
            return pack_command((b"ZREVRANGE", key, b"0", b"-1", b"WITHSCORES")), 1
        case Revoke(user, keep):
            arguments = (REVOKED.encode(), (keep or "").encode(), b"%d" % (LONGEST * 1000))
            return pack_command((b"EVAL", REVOKE_SCRIPT, b"1", _index(prefix, user), *arguments)), 1
        case Prune(user, entries):
            flat = [part for id, score in entries for part in (id.encode(), b"%d" % score)]
            call = (b"EVAL", PRUNE_SCRIPT, b"1", _index(prefix, user), b"%d" % PRUNE_AGE, *flat)
            return pack_command(call), 1
        case Describe(ids):
            packet = pack_command((b"TIME",))
            for id in ids:
                key = prefix + id.encode()
                packet += pack_command((b"HMGET", key, *_DESCRIBED))
                packet += pack_command((b"PTTL", key))
            return packet, 1 + 2 * len(ids)
        case _:
            assert isinstance(operation, Scan)
            pattern = re.sub(rb"([\\*?\[\]^])", rb"\\\1", prefix) + b"?" * ID_LENGTH
            call = (
                b"SCAN",
                b"%d" % operation.cursor,
                b"MATCH",
                pattern,
                b"COUNT",
                b"500",
                b"TYPE",
                b"hash",
            )
            return pack_command(call), 1


def unpack_many(operation: Operation, prefix: bytes, replies: Sequence[Any]) -> Reply:
    match operation:
        case Listing() | Revoke():
            (flat,) = replies
            pairs = zip(flat[::2], flat[1::2], strict=True)
            entries = [(id.decode(), int(score)) for id, score in pairs]
            left_out = (REVOKED, operation.keep if isinstance(operation, Revoke) else None)
            values: Any = [entry for entry in entries if entry[0] not in left_out]
        case Describe(ids):
            now = _milliseconds(replies[0])
            fetched = zip(ids, replies[1::2], replies[2::2], strict=True)
            values = [_description(id, held, left, now) for id, held, left in fetched]
        case Scan():
            ((cursor, keys),) = replies
            names = [key.removeprefix(prefix).decode(errors="replace") for key in keys]
            values = int(cursor), names
        case _:
            (values,) = replies
    return Reply(State.LIVE, values)


def _description(id: str, held: Sequence[Any], left: int, now: int) -> Description | None:
    proof, predecessor, user, created, seen, login, *info = held
    if proof is None or left < 0:
        return None
    return Description(
        id,
        None if user is None else user.decode(),
        int(created),
        int(seen or created),
        now + left,
        None if login is None else int(login),
        b"".join([part or b"" for part in info]),
        Facts(proof, None, None, None, None, predecessor, user, login),
        now,
    )


def _no_errors(replies: Sequence[Any]) -> Sequence[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
