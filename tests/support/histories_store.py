"""Stores for random histories: what they lose, and what they hold."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from inside import lease_in, put_lease
from redis import ConnectionError as Disconnected
from redis import Redis

from pyramid_altsession.errors import StoreUnavailable
from pyramid_altsession.protocol.contract import PendingRead
from pyramid_altsession.protocol.fields import USER
from pyramid_altsession.protocol.frame import alive, end_of, ending, split
from pyramid_altsession.protocol.messages import Operation, Read, Reply
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.stores.redis.store import RedisStore
from pyramid_altsession.stores.redis.wire import index_key
from pyramid_altsession.testing import Clock

MOST_OPERATIONS = 12
"""What one call, or the end of a request, may ask of the store, where nobody crosses it."""

USERS = ("ann", "bob", "eve")


class Violation(AssertionError):
    """A promise that was not kept; ``kind`` names it."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


# -- the store, with losses


class Faulty:
    """A store that loses what a history says, counts, and lets things happen in between."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.lossy: Any = None
        if isinstance(store, RedisStore):
            if not isinstance(lease_in(store), LossyPool):
                put_lease(store, LossyPool(lease_in(store)))
            self.lossy = lease_in(store)
        self.begin()

    def begin(self) -> None:
        """Nothing was counted, and nothing will be lost."""
        self.count = 0
        self.loss: tuple[str, int] | None = None
        self.crossing: Callable[[], None] | None = None
        if self.lossy is not None:
            self.lossy.lose = 0

    def execute(self, operation: Operation) -> Reply:
        lost = self._next()
        if lost == "request":
            raise StoreUnavailable("the request was lost")
        if lost == "repeat" and self.lossy is not None:
            self.lossy.lose = 1
        reply = self.store.execute(operation)
        if lost == "repeat" and self.lossy is None:
            if not operation.repeatable:
                raise StoreUnavailable("the reply was lost")
            reply = self.store.execute(operation)
        if lost == "reply":
            raise StoreUnavailable("the reply was lost")
        return reply

    def send(self, operation: Read) -> PendingRead:
        lost = self._next()
        if lost == "request":
            raise StoreUnavailable("the request was lost")
        sending: PendingRead = self.store.send(operation)
        return Unanswered(sending) if lost == "reply" else sending

    def close(self) -> None:
        self.store.close()

    def _next(self) -> str | None:
        if self.count == 1 and self.crossing is not None:
            crossing, self.crossing = self.crossing, None
            crossing()
        place, self.count = self.count, self.count + 1
        if place > MOST_OPERATIONS:
            raise Violation("endless", f"{place} operations for one call")
        return self.loss[0] if self.loss is not None and self.loss[1] == place else None


class Unanswered:
    """A read whose reply does not come."""

    def __init__(self, sending: PendingRead) -> None:
        self.cancel = sending.cancel

    def result(self, operation: Read) -> Reply:
        self.cancel()
        raise StoreUnavailable("the reply was lost")


class LossyPool:
    """Connections that end after the server has carried out what was asked, instead of its reply.
    What is harmless is asked again then, by the store."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.lose = 0

    def exchange(self, packet: bytes, replies: int, end: float | None = None) -> list[Any]:
        answer: list[Any] = self._pool.exchange(packet, replies, end)
        if self.lose:
            self.lose -= 1
            raise Disconnected("the reply was lost")
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


# -- what is stored


class Key(NamedTuple):
    """A session's fields, as the application sees them, and the milliseconds it has left."""

    fields: dict[str, bytes]
    left: int


Unsealed = Callable[[str, str, bytes], bytes]
"""A field in plain, of a session's id, its name and what is stored."""


class Inside:
    """What a store holds, behind its back."""

    def __init__(self, unsealed: Unsealed) -> None:
        self.unsealed = unsealed

    def all(self) -> dict[str, Key]:
        """Every session and tombstone by its id, without what has ended."""
        now, found = self.hashes()
        return {id: self._plain(id, key, now) for id, key in found.items()}

    def fields(self, id: str | None) -> dict[str, bytes]:
        """One session's; none where there is no such session."""
        now, found = self.hashes()
        return self._plain(id, found[id], now).fields if id in found else {}

    def value(self, id: str, key: str) -> Any:
        raw = self.fields(id).get(key)
        return None if raw is None else json.loads(split(raw)[1])

    def user(self, id: str | None) -> str | None:
        raw = self.fields(id).get(USER)
        return None if raw is None else raw.decode()

    def _plain(self, id: str, key: Key, now: int) -> Key:
        lasting = {n: raw for n, raw in key.fields.items() if n[0] == "@" or alive(raw, now)}
        return Key({n: self.unsealed(id, n, raw) for n, raw in lasting.items()}, key.left)

    def hashes(self) -> tuple[int, dict[str, Key]]:
        """The store's time, and what it holds, as it is."""
        raise NotImplementedError

    def index(self, user: str) -> set[str]:
        """The sessions that are noted for a user."""
        raise NotImplementedError

    def forget(self, id: str) -> None:
        """A session ends by itself."""
        raise NotImplementedError

    def pass_time(self, seconds: int) -> None:
        """What so many seconds without use do to everything."""
        raise NotImplementedError


class InMemory(Inside):
    def __init__(self, store: MemoryStore, clock: Clock, unsealed: Unsealed) -> None:
        super().__init__(unsealed)
        self.store = store
        self.clock = clock

    def hashes(self) -> tuple[int, dict[str, Key]]:
        now = round(self.clock.now * 1000)
        return now, {
            id: Key(held, held.expires - now)
            for id, held in self.store.hashes.items()
            if held.expires > now
        }

    def index(self, user: str) -> set[str]:
        return set(self.store.indexes.get(user, {}))

    def forget(self, id: str) -> None:
        self.store.hashes.pop(id, None)

    def pass_time(self, seconds: int) -> None:
        self.clock.now += seconds


class OnServer(Inside):
    """Time passes by changing every time that is stored."""

    def __init__(self, client: "Redis", unsealed: Unsealed) -> None:
        super().__init__(unsealed)
        self.client: Any = client
        self._all = self.client.register_script(ALL)

    def hashes(self) -> tuple[int, dict[str, Key]]:
        (seconds, micro), *found = self._all()
        keys = {}
        for name, left, flat in zip(found[::3], found[1::3], found[2::3], strict=True):
            names = [field.decode() for field in flat[::2]]
            keys[name.decode()[5:]] = Key(dict(zip(names, flat[1::2], strict=True)), left)
        return int(seconds) * 1000 + int(micro) // 1000, keys

    def index(self, user: str) -> set[str]:
        return {id.decode() for id in self.client.zrange(index_key(b"sess:", user), 0, -1)}

    def forget(self, id: str) -> None:
        self.client.delete(f"sess:{id}")

    def pass_time(self, seconds: int) -> None:
        ms = seconds * 1000
        with self.client.pipeline() as pipe:
            for id, key in self.hashes()[1].items():
                name = f"sess:{id}"
                earlier = {n: _earlier(n, raw, ms) for n, raw in key.fields.items()}
                pipe.hset(name, mapping=earlier)
                pipe.pexpire(name, key.left - ms)
            for user in USERS:
                name = index_key(b"sess:", user)
                for id, score in self.client.zrange(name, 0, -1, withscores=True):
                    pipe.zadd(name, {id: score - ms})
                pipe.pexpire(name, self.client.pttl(name) - ms)
            pipe.execute()


ALL = """
local found = {redis.call('TIME')}
for _, key in ipairs(redis.call('KEYS', 'sess:*')) do
  if redis.call('TYPE', key).ok == 'hash' then
    found[#found + 1] = key
    found[#found + 1] = redis.call('PTTL', key)
    found[#found + 1] = redis.call('HGETALL', key)
  end
end
return found
"""


def _earlier(name: str, raw: bytes, ms: int) -> bytes:
    """A field, as it would be so much earlier."""

    def stamp(part: bytes) -> bytes:
        when = int.from_bytes(part, "big")
        return (when - ms // 10 if when else 0).to_bytes(5, "big")

    if name in ("@c", "@d", "@t", "@l"):
        return b"%d" % (int(raw) - ms)
    if name == "@q":
        entries = [raw[at : at + 21] for at in range(0, len(raw), 21)]
        return b"".join([entry[:16] + stamp(entry[16:]) for entry in entries])
    if name == "@p":
        return raw[:32] + stamp(raw[32:37]) + stamp(raw[37:42])
    end = None if name[0] == "@" else end_of(raw)
    return raw if end is None else ending(raw, end - ms)
