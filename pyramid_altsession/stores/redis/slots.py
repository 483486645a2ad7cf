"""Which node of a cluster serves a key, in steps: the map of slots, MOVED, ASK, and nodes that
went away; and a walk over all nodes."""

import itertools
import random
import time
from array import array
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import hiredis
import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError

from .exchanges import Address, Exchange, Steps
from .failures import NotConnected
from .wire import no_errors, pack_command

CLUSTER_SLOTS = pack_command((b"CLUSTER", b"SLOTS"))
ASKING = pack_command((b"ASKING",))
REFRESH = 0.1
"""Seconds between two looks at the map: a node that fails must not make every call look."""
HOPS = 6
"""How many redirections of one packet are followed at most."""
_OWN = 2**64 - 1
"""Masks a server's own cursor."""
SEVERAL = 3
"""How many nodes of the old map are asked for the new one, before the seeds."""


def asking(packet: bytes) -> bytes:
    """The same commands, each with ASKING, for the node that is importing their slot."""
    reader, out = hiredis.Reader(), b""
    reader.feed(packet)
    while command := reader.gets():
        out += ASKING + pack_command(tuple(command))
    return out


Table = tuple["array[int]", list[Address | None]]
"""For each slot, the index of its server in the list. Two bytes for each: any thread may make the
map anew, and each thread's memory arena keeps the freed room.
"""


def _table() -> Table:
    return array("H", bytes(2 * REDIS_CLUSTER_HASH_SLOTS)), [None]


def _host(name: str, asked: Address) -> str:
    """The host that a node names: an empty or unknown name means the node that was asked."""
    return asked[0] if name in ("", "?") else name


def _place(owners: list[Address | None], address: Address) -> int:
    """The index of the server in the list, to which it is added if it is new."""
    if address not in owners:
        owners.append(address)
    return owners.index(address)


class SlotMap:
    """The map of slots. It is fetched when it is first needed, and again when a node fails or
    redirects.

    The seeds are kept for good: even if all nodes get new addresses, the seeds' names stay.
    """

    def __init__(self, seeds: Sequence[Address]) -> None:
        self.seeds = tuple(seeds)
        self.primaries: tuple[Address, ...] = ()
        """In the order of their slots, which changes when slots move; last those that are known
        from a MOVED only.
        """
        self.changed: Callable[[], None] = lambda: None
        """Called when some nodes may not be needed any more."""
        self._table = _table()
        self._looked = -REFRESH
        self._doubtful: Address | None = None

    def address(self, slot: int) -> Steps[Address]:
        """The address of the slot's server; NotConnected if there is none."""
        if self._doubtful is not None:
            # This server did not answer in time, and the call that waited had no time left to look.
            doubtful, self._doubtful = self._doubtful, None
            yield from self.refresh(doubtful)
        if self._owner(slot) is None:
            yield from self.refresh(None)
        found = self._owner(slot)
        if found is None:
            raise NotConnected(f"no node of the cluster serves slot {slot}")
        return found

    def known(self, key: bytes) -> Address | None:
        """The address of the key's server, if the map has it; else None."""
        return self._owner(key_slot(key)) if self._doubtful is None else None

    def _owner(self, slot: int) -> Address | None:
        slots, owners = self._table
        return owners[slots[slot]]

    def send(
        self, key: bytes, packet: bytes, replies: int, repeatable: bool,
        address: Address | None = None, tail: int = 0,
    ) -> Steps[list[Any]]:  # fmt: skip
        """Send one packet about one key to the node that serves it, or first to this address. Error
        replies are returned. ``tail``: so many commands at the packet's end only make sense on the
        node that has carried out the others, so they are not sent on by themselves.
        """
        slot = key_slot(key)
        if address is None:
            address = yield from self.address(slot)
        asked, repeats = False, repeatable
        answers: list[Any] = []
        for _ in range(HOPS):
            try:
                if asked:
                    answers = (yield Exchange(address, asking(packet), 2 * replies))[1::2]
                else:
                    answers = yield Exchange(address, packet, replies)
            except redis.TimeoutError:
                self._doubtful = address
                raise
            except redis.ConnectionError as error:
                unsent = isinstance(error, NotConnected)
                if repeats and not unsent:
                    repeats = False  # an idle connection that the server closed
                    continue
                now_at = yield from self._owner_now(slot, address)
                if now_at == address or not (unsent or repeatable):
                    raise
                address, asked = now_at, False
                continue
            # The commands are about one key: if one was redirected, all of them are sent again.
            told = answers[: replies - tail]
            sent_on = next((answer for answer in told if isinstance(answer, AskError)), None)
            if sent_on is None:
                if not any(isinstance(answer, ClusterDownError) for answer in told):
                    break
                # It did nothing: it was cut off from the others, or has left them, and they may
                # have another node for the slot.
                now_at = yield from self._owner_now(slot, address)
                if now_at == address:
                    break
                address, asked = now_at, False
                continue
            address = _host(sent_on.host, address), sent_on.port
            asked = not isinstance(sent_on, MovedError)
            if not asked:
                slots, owners = self._table
                slots[slot] = _place(owners, address)
                if address not in self.primaries:  # until the map has been fetched
                    self.primaries += (address,)
                yield from self.refresh(None)
        return answers

    def refresh(self, failed: Address | None = None) -> Steps[None]:
        """Fetch the map, if that was not done a moment ago: from known nodes in random order, then
        the seeds, and the failed node last.
        """
        if self.primaries and time.monotonic() < self._looked + REFRESH:
            self.changed()  # a node that was replaced may not be used any more after this call
            return
        self._looked = time.monotonic()
        known = [address for address in self.primaries if address != failed]
        random.shuffle(known)
        last = () if failed is None else (failed,)
        others = [seed for seed in self.seeds if seed != failed]
        asked = list(dict.fromkeys([*known[:SEVERAL], *others, *last]))
        said = []
        for place, address in enumerate(asked):
            share = len(asked) - place + 1  # time has to be left for the others
            try:
                replies = yield Exchange(address, CLUSTER_SLOTS, 1, share=share, lookup=True)
                (ranges,) = no_errors(replies)
            except redis.RedisError as error:
                said.append(str(error))
                continue
            if ranges:  # otherwise it has left the cluster, or has not joined one yet
                self._take(address, ranges)
                return
        if not self.primaries:
            raise NotConnected("no node knows the cluster: " + "; ".join(said))
        if failed is not None:  # perhaps connecting to it in vain took all of the call's time
            self._doubtful = failed

    def _owner_now(self, slot: int, failed: Address) -> Steps[Address]:
        """The slot's server by a new map, after this one failed; the same one if none is known."""
        yield from self.refresh(failed)
        return self._owner(slot) or failed

    def _take(self, asked: Address, ranges: Sequence[Any]) -> None:
        slots, owners = table = _table()
        for first, last, (name, port, *_), *_ in sorted(ranges, key=itemgetter(0)):
            host = _host((name or b"").decode(), asked)
            place = array("H", [_place(owners, (host, port))])
            slots[first : last + 1] = place * (last - first + 1)
        self._table = table
        self.primaries = tuple([address for address in owners if address])
        self.changed()


class Walk:
    """Leads over all nodes. The cursor holds the nodes that are through, the one under way, and
    that one's own cursor. It names nodes by numbers that they keep in this process, because their
    order and number may change on the way.
    """

    def __init__(self, map: SlotMap) -> None:
        self._map = map
        self._numbers: dict[Address, int] = {}
        self._next = itertools.count()

    def place(self, cursor: int) -> Steps[tuple[Address, int] | None]:
        """The node to ask, and its own cursor; None if every node is through.

        A node that took the place of the one under way is walked from its beginning, because a
        cursor is good for one server only.
        """
        if cursor == 0:  # or nodes would be missed that joined since the map was needed last
            yield from self._map.refresh()
        through, under_way, own = cursor >> 96, cursor >> 64 & 0xFFFFFFFF, cursor & _OWN
        nodes = self._nodes()
        if own and under_way in nodes:
            return nodes[under_way], own
        left = [address for number, address in nodes.items() if not through >> number & 1]
        return (left[0], 0) if left else None

    def following(self, cursor: int, node: Address, own: int) -> Steps[int]:
        """The next cursor, when the node has returned its own; 0: every node is through."""
        through, number = cursor >> 96, self._number(node)
        if own:
            return through << 96 | number << 64 | own
        yield from self._map.refresh()
        through |= 1 << number
        more = any(not through >> number & 1 for number in self._nodes())
        return through << 96 if more else 0

    def _nodes(self) -> dict[int, Address]:
        return {self._number(address): address for address in self._map.primaries}

    def _number(self, address: Address) -> int:
        found = self._numbers.get(address)
        if found is None:  # another thread may have been faster
            found = self._numbers.setdefault(address, next(self._next))
        return found
