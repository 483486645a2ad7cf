"""What the tests of signed-in sessions share: a look at sessions and indexes behind a store."""

import base64
import hashlib
from typing import Any

from apps import Behind, Browser

from pyramid_altsession.api import SessionAPI
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.interfaces import Store
from pyramid_altsession.protocol.messages import REVOKED
from pyramid_altsession.stores.memory import MemoryStore


def index_key(user: str) -> str:
    digest = hashlib.sha256(user.encode()).digest()
    return "sess:user:" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class Books(Behind):
    """Sessions and indexes, in the same words for every kind of store."""

    def ids(self) -> list[str]:
        """Live sessions and tombstones."""
        if self.client is None:
            return super().ids()
        return [id for id in super().ids() if not id.startswith("user")]

    def index(self, user: str) -> dict[str, int]:
        """Session id: time of login, ms."""
        return {id: score for id, score in self.members(user).items() if id != REVOKED}

    def members(self, user: str) -> dict[str, int]:
        """The same, and the time of the last revocation."""
        if self.client is None:
            assert isinstance(self.store, MemoryStore)
            return dict(self.store.indexes.get(user, {}))
        pairs = self.client.zrange(index_key(user), 0, -1, withscores=True)
        return {id.decode(): int(score) for id, score in pairs}

    def put_entry(self, user: str, id: str, score: int) -> None:
        if self.client is None:
            assert isinstance(self.store, MemoryStore)
            self.store.indexes.setdefault(user, {})[id] = score
        else:
            self.client.zadd(index_key(user), {id: score})

    def lose_index(self, user: str) -> None:
        """As an eviction would."""
        if self.client is None:
            assert isinstance(self.store, MemoryStore)
            self.store.indexes.pop(user)
        else:
            self.client.delete(index_key(user))

    def index_left(self, user: str) -> float:
        """Seconds until the server forgets the index."""
        return self.client.pttl(index_key(user)) / 1000

    def endless(self) -> list[str]:
        """Keys without a TTL."""
        if self.client is None:
            return []
        return [key.decode() for key in self.client.keys("*") if self.client.pttl(key) == -1]

    def signed_in(self) -> dict[str, str]:
        """Id and user of every session that has one."""
        held = {id: self.fields(id).get("@u") for id in self.ids()}
        return {id: user.decode() for id, user in held.items() if user is not None}

    def pass_time(self, id: str, seconds: float) -> None:
        """The same for what only signed-in sessions have. Less than 0: the clock is set back."""
        ticks = round(seconds * 100)
        held = self.fields(id)
        if "@l" in held:
            self.put(id, "@l", b"%d" % (int(held["@l"]) - 10 * ticks))
        if "@p" in held:
            raw = held["@p"]
            used, made = (int.from_bytes(raw[at : at + 5], "big") for at in (32, 37))
            times = (used - ticks if used else 0, made - ticks)
            self.put(id, "@p", raw[:32] + b"".join(t.to_bytes(5, "big") for t in times))
        super().pass_time(id, seconds)


def api_on(store: Store, notify: Any = None, **session: object) -> SessionAPI:
    return SessionAPI(read_settings({"session": session}), store=store, notify=notify)


def signed_in(api: SessionAPI, user: str = "ann", **login: Any) -> Browser:
    """A browser that has a cart and then signs in, each in a request of its own."""
    browser = Browser(api)
    browser.does(lambda s: s.set("cart", [1, 2]))
    browser.does(lambda s: s.login(user, **login))
    return browser


def id_of(browser: Browser) -> str:
    assert browser.jar is not None
    return browser.jar.partition(".")[0]
