"""Turns operations into packets, and replies into values."""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import hiredis

from ...protocol.fields import (
    CREATED,
    FACTS,
    INFO,
    LOGIN,
    PREDECESSOR,
    PROOF,
    SEEN,
    USER,
    Description,
    Facts,
    State,
    Timing,
    belongs,
    judge,
    keys_of,
)
from ...protocol.keys import LONGEST
from ...protocol.messages import (
    PRUNE_AGE,
    REVOKED,
    Describe,
    Inspect,
    Listing,
    Operation,
    Prune,
    Read,
    Reply,
    Revoke,
    Scan,
    Write,
)
from ...protocol.token import ID_LENGTH
from .scripts import CONFIRM_SCRIPT, PRUNE_SCRIPT, REVOKE_SCRIPT, SCRIPT, SCRIPT_SHA

if TYPE_CHECKING:
    from .exchanges import Address, First

_OURS = tuple(name.encode() for name in FACTS)
_BEHIND_OURS = len(_OURS)
_STATES = {state.value: state for state in State}
_DESCRIBED = tuple(
    name.encode() for name in (PROOF, PREDECESSOR, USER, CREATED, SEEN, LOGIN, *INFO)
)


# Bytes only: with numbers it can crash when a signal handler raises.
pack_command: Callable[[tuple[bytes, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]
_TIMES = b"*2\r\n$4\r\nPTTL\r\n$%d\r\n%b\r\n*1\r\n$4\r\nTIME\r\n"
_HMGET = b"*%d\r\n$5\r\nHMGET\r\n$%d\r\n%b\r\n%b" + _TIMES
SCANNED = 500
"""Keys that a server looks at in one step of a walk over all sessions."""
MOST_CACHED = 16
"""Fields of a read whose packed names are kept: 256 reads of so many long names are 5 MB."""


def _names(fields: tuple[str, ...]) -> tuple[int, bytes]:
    """How many arguments HMGET has for these fields, and those after the key, packed."""
    names = [*_OURS, *[name.encode() for name in fields]]
    packed = b"".join([b"$%d\r\n%b\r\n" % (len(name), name) for name in names])
    return 2 + len(names), packed


cached_names = lru_cache(256)(_names)


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
            count, names = (_names if fields[MOST_CACHED:] else cached_names)(fields)
            packet += _HMGET % (count, size, key, names, size, key)
        replies += 3
    return packet, replies


def unpack_read(operation: Read, replies: Sequence[Any]) -> Reply:
    """The first live claim; else DEAD with the state of every claim."""
    states, timing = [], operation.timing
    for which, claim in enumerate(operation.claims):
        fetched, left, clock = replies[3 * which : 3 * which + 3]
        if not (fetched.__class__ is clock.__class__ is list and left.__class__ is int):
            no_errors(replies)
        now = milliseconds(clock)
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
        if state is State.LIVE or belongs(operation.whose, state, facts):
            remembered = None
            if facts.tti is not None and facts.deadline is not None:
                remembered = int(facts.deadline) - now
            if left == -2:  # it expired between the commands: the fields were read before
                left = None
            return Reply(State.LIVE, values, now, left, which, facts, remembered)
        states.append(state)
    return Reply(State.DEAD, states)


def first_packet(
    operation: Operation, prefix: bytes, address: "Address | None" = None
) -> "First | None":
    """The packet of a read, or of a write that no replica has to confirm."""
    match operation:
        case Read():
            return address, *pack_read(operation, prefix), unpack_read
        case Write() if not operation.durable:
            return address, pack_write(operation, prefix), 1, unpack_write
    return None


def milliseconds(clock: Sequence[bytes]) -> int:
    """TIME's reply: seconds and microseconds."""
    return int(clock[0]) * 1000 + int(clock[1]) // 1000


@lru_cache(1024)
def index_key(prefix: bytes, user: str) -> bytes:
    """The key of a user's index. It holds a hash, so that no user id gets into a key or a log."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(user.encode()).digest())
    return prefix + b"user:" + digest.rstrip(b"=")


@lru_cache(256)
def _times(timing: Timing) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """The script's arguments that come from the settings, before and after the window."""
    before = timing.tti, timing.interval, timing.lifetime, timing.window
    flags = (b"r" if timing.reuse_ends else b"") + timing.notify
    limits = b"%d" % timing.max_keys, b"%d" % timing.max_bytes
    return tuple([b"%d" % time for time in before]), (b"%d" % timing.grace, flags, *limits)


def pack_write(operation: Write, prefix: bytes, *, load: bool = False) -> bytes:
    """The script's call, by its hash or with its text; write.lua tells the arguments."""
    before, after = _times(operation.timing)
    key, user = prefix + operation.claim.id.encode(), operation.user
    who = b"1" if operation.create else b"any" if operation.anybody else b"0" + operation.mark
    if operation.whose is not None:
        who = b"=" + operation.whose.encode()
    arguments = [
        *((b"EVAL", SCRIPT) if load else (b"EVALSHA", SCRIPT_SHA)),
        *((b"1", key) if user is None else (b"2", key, index_key(prefix, user))),
        operation.claim.proof,
        who,
        *before,
        b"%d" % operation.window,
        *after,
        *((b"",) if operation.life is None else operation.life.wire()),
    ]
    for verb in operation.verbs:
        arguments += verb.wire()
    return pack_command(tuple(arguments))


def unpack_write(operation: Write, replies: Sequence[Any]) -> Reply:
    """The script's reply."""
    (answer,) = replies
    if answer.__class__ is not list:
        no_errors(replies)
    state, now, left, remembered, user, since, done, values = answer
    left = None if left == -2 else left
    remembered = None if remembered < 0 else remembered
    return Reply(_STATES[state], values, now, left, 0, None, remembered, user, since, done)


def pack_many(operation: Operation, prefix: bytes) -> tuple[bytes, int]:
    """An operation about many sessions, and how many replies it gets."""
    match operation:
        case Listing(user, sample):
            key = index_key(prefix, user)
            if sample:
                return pack_command((b"ZRANDMEMBER", key, b"%d" % sample, b"WITHSCORES")), 1
            return pack_command((b"ZREVRANGE", key, b"0", b"-1", b"WITHSCORES")), 1
        case Revoke(user, keep):
            arguments = (REVOKED.encode(), (keep or "").encode(), b"%d" % (LONGEST * 1000))
            return pack_command(
                (b"EVAL", REVOKE_SCRIPT, b"1", index_key(prefix, user), *arguments)
            ), 1
        case Prune(user, entries):
            flat = [part for id, score in entries for part in (id.encode(), b"%d" % score)]
            call = (b"EVAL", PRUNE_SCRIPT, b"1", index_key(prefix, user), b"%d" % PRUNE_AGE, *flat)
            return pack_command(call), 1
        case Describe(ids):
            packet = pack_command((b"TIME",))
            for id in ids:
                key = prefix + id.encode()
                packet += pack_command((b"HMGET", key, *_DESCRIBED))
                packet += pack_command((b"PTTL", key))
            return packet, 1 + 2 * len(ids)
        case Inspect(ids):
            calls = [pack_command((b"HGETALL", prefix + id.encode())) for id in ids]
            return pack_command((b"TIME",)) + b"".join(calls), 1 + len(ids)
        case _:
            assert isinstance(operation, Scan)
            pattern = re.sub(rb"([\\*?\[\]^])", rb"\\\1", prefix) + b"?" * ID_LENGTH
            call = (
                b"SCAN",
                b"%d" % operation.cursor,
                b"MATCH",
                pattern,
                b"COUNT",
                b"%d" % SCANNED,
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
            now = milliseconds(replies[0])
            fetched = zip(ids, replies[1::2], replies[2::2], strict=True)
            values = [_description(id, held, left, now) for id, held, left in fetched]
        case Inspect():
            now = milliseconds(replies[0])
            values = [_keys(held, now) for held in replies[1:]]
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


def _keys(held: Sequence[bytes], now: int) -> dict[str, bytes] | None:
    fields = dict(zip(held[::2], held[1::2], strict=True))
    if PROOF.encode() not in fields:
        return None
    return keys_of({name.decode(errors="replace"): raw for name, raw in fields.items()}, now)


def pack_confirmation(key: bytes, prefix: bytes, ms: int) -> bytes:
    """Asks, after a write about this key and on the same node, how many replicas have confirmed it.
    Two replies. The part of the key between braces makes a cluster choose the same node.
    """
    written = prefix + b"durable:{" + key + b"}"
    script = pack_command((b"EVAL", CONFIRM_SCRIPT, b"1", written))
    return script + pack_command((b"WAIT", b"1", b"%d" % ms))


def no_errors(replies: Sequence[Any]) -> Sequence[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies
