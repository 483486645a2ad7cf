"""Random histories of whole requests, and what has to hold in all of them.

A history is a variant of the settings and a list of steps, plain tuples that print as a trace:

    ("request", browser, cookies, flags, attempts)   attempts: a tuple of calls for each attempt
    ("end user", user) · ("end session", browser) · ("forget", browser) · ("pass", seconds)
    ("copy", browser, browser)                       the second has the first one's cookie

A call is a tuple too, ``("login", "ann")`` or ``("set", "a")``, and some hold others:

    ("lost", what, which, call)     what: "request", "reply" or "repeat"; of the operation no. which
    ("crossed", step, call)         the step comes before the call's second operation
    ("meanwhile", step)             the step comes between two calls
    ("sub", cookie, tweens, calls)  a subrequest: "same" cookie, "none", or the same "environ"

Every value that a request stores is a text of its own, which tells whose it is: ``ann#17``.
"""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any, NamedTuple

import pyramid_retry
from pyramid.config import Configurator
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import INGRESS
from redis import ConnectionError as Disconnected
from redis import Redis
from sealed import SECRET, opened
from servers import Server

from pyramid_altsession import ISessionAPI, SessionAPI
from pyramid_altsession.errors import AltSessionError, StoreUnavailable, TooManySessions
from pyramid_altsession.frame import alive, end_of, ending, split
from pyramid_altsession.operations import USER, Operation, Read, Reply
from pyramid_altsession.state import Sending, SessionState, Status
from pyramid_altsession.stores.memory import MemoryStore
from pyramid_altsession.stores.redis import RedisStore, _index
from pyramid_altsession.stores.sealed import SealedStore
from pyramid_altsession.token import SessionCookie, Token, proof_of

Step = tuple[Any, ...]
Call = tuple[Any, ...]

SECRETS = ("the-first-secret-of-two", "the-second-secret-of-two")
WINDOW = 10
PLAIN: dict[str, object] = {"altsession.sync.enabled": True}
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "secrets": {"session.secret": list(SECRETS)},
    "retry": {},
    "renewal": {"session.renew_after": 5, "session.renew_grace": 5},
    "reuse": {
        "session.renew_after": 5,
        "session.renew_grace": 5,
        "session.on_reuse": "invalidate",
        "session.secret": list(SECRETS),
    },
    "everything": {
        "session.renew_after": 5,
        "session.on_reuse": "invalidate",
        "session.secret": list(SECRETS),
        "session.prefetch": ["a", "list"],
        "session.first_tti": 60,
    },
    "few": {"session.max_sessions_per_user": 1},
    "denied": {"session.max_sessions_per_user": 1, "session.on_max_sessions": "deny"},
}
RETRIED = ("retry", "everything")

USERS = ("ann", "bob", "eve")
BROWSERS = ("one", "two", "three")
TEXTS = ("a", "b")
LIST, NUMBER = "list", "n"
AUTH_USERID = "auth.userid"

MOST_OPERATIONS = 12
"""What one call, or the end of a request, may ask of the store, where nobody crosses it."""

VALUE = re.compile(r"(?:ann|bob|eve|anybody)#(\d+)")


class Violation(AssertionError):
    """A promise that was not kept; ``kind`` names it."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


@dataclass(frozen=True)
class History:
    variant: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return "\n".join(
            [f"History({self.variant!r}, (", *[f"    {s!r}," for s in self.steps], "))"]
        )


# -- the store, with losses


class Faulty:
    """A store that loses what a history says, counts, and lets things happen in between."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.lossy: Any = None
        if isinstance(store, RedisStore):
            if not isinstance(store._lease, LossyLease):
                store._lease = LossyLease(store._lease)  # type: ignore[assignment]
            self.lossy = store._lease
        self.begin()

    def begin(self) -> None:
        """Nothing was counted, and nothing will be lost."""
        self.count = 0
        self.loss: tuple[str, int] | None = None
        self.crossing: Callable[[], None] | None = None
        if self.lossy is not None:
            self.lossy.lose = 0

    def carry_out(self, operation: Operation) -> Reply:
        lost = self._next()
        if lost == "request":
            raise StoreUnavailable("the request was lost")
        if lost == "repeat" and self.lossy is not None:
            self.lossy.lose = 1
        reply = self.store.carry_out(operation)
        if lost == "repeat" and self.lossy is None:
            if not operation.repeatable:
                raise StoreUnavailable("the reply was lost")
            reply = self.store.carry_out(operation)
        if lost == "reply":
            raise StoreUnavailable("the reply was lost")
        return reply

    def send(self, operation: Read) -> Sending:
        lost = self._next()
        if lost == "request":
            raise StoreUnavailable("the request was lost")
        sending: Sending = self.store.send(operation)
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

    def __init__(self, sending: Sending) -> None:
        self.drop = sending.drop

    def reply(self, operation: Read) -> Reply:
        self.drop()
        raise StoreUnavailable("the reply was lost")


class LossyLease:
    """Connections that end after the server has carried out what was asked, instead of its reply.
    What is harmless is asked again then, by the store."""

    def __init__(self, lease: Any) -> None:
        self._lease = lease
        self.lose = 0

    def exchange(self, packet: bytes, replies: int) -> list[Any]:
        answer: list[Any] = self._lease.exchange(packet, replies)
        if self.lose:
            self.lose -= 1
            raise Disconnected("the reply was lost")
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lease, name)


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

    def keys(self) -> dict[str, Key]:
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


class Clock:
    """A clock that stands still until time passes."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


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
        return {id.decode() for id in self.client.zrange(_index(b"sess:", user), 0, -1)}

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
                name = _index(b"sess:", user)
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


# -- the application


class Application:
    """A Pyramid application whose one view plays what a history says."""

    def __init__(self, variant: str, *, url: str = "memory://", sealed: bool = False) -> None:
        settings = {f"altsession.{name}": value for name, value in VARIANTS[variant].items()}
        settings |= {"altsession.redis.url": url, **PLAIN}
        if sealed:
            settings |= {
                "altsession.session.codec": "pyramid_altsession.codecs.encrypted",
                "altsession.session.codec_secret": SECRET,
            }
        config = Configurator(settings=settings)
        config.include("pyramid_altsession")
        if variant in RETRIED:
            config.include("pyramid_retry")
            config.add_tween(
                "histories.retried_outages",
                under=INGRESS,
                over="pyramid_altsession.tween.altsession_tween_factory",
            )
        config.add_route("play", "/")
        config.add_view(play, route_name="play")
        self.router = config.make_wsgi_app()
        self.api: SessionAPI = config.registry.getUtility(ISessionAPI)
        second = replace(self.api.settings.session, secret=SECRETS[::-1])
        self.second_signer = SessionCookie(second)
        self.sealed = sealed

    def store(self, store: Any) -> Faulty:
        """Another store in place of the one there is."""
        faulty = Faulty(store)
        self.api._store = faulty
        if self.sealed:
            self.api._store = SealedStore(faulty, self.api._calls.codec)  # type: ignore[arg-type]
        return faulty


def retried_outages(handler: Any, registry: Registry) -> Any:
    """An application that tries again where the store was not available."""

    def tween(request: Request) -> Response:
        response: Response = handler(request)
        if isinstance(request.exception, StoreUnavailable):
            pyramid_retry.mark_error_retryable(request.exception)
        return response

    return tween


def play(request: Request) -> Response:
    """The view: the calls of this attempt."""
    played: Played = request.environ["histories.played"]
    attempt = request.environ.get("retry.attempt", 0)
    last = len(played.attempts) - 1
    if attempt:
        played.machine.check()  # what the attempt before has stored is stored
    visit = played.visit = Visit(played, request, played.outer)
    for call in played.attempts[min(attempt, last)]:
        visit.perform(call)
    if attempt < last and request.environ.get("retry.attempts", 1) > 1:
        raise pyramid_retry.RetryableException
    played.machine.faulty.count = 0  # the end of the request counts by itself
    return Response("played")


class World:
    """The applications of one kind of store, one for each variant."""

    def __init__(self, server: Server | None = None, *, sealed: bool = False) -> None:
        self.server = server
        self.sealed = sealed
        self._applications: dict[str, tuple[Application, Any]] = {}

    def empty(self, variant: str) -> tuple[Application, Any, Inside]:
        """An application, its empty store, and that one's inside."""
        if variant not in self._applications:
            url = "memory://" if self.server is None else self.server.url
            made = Application(variant, url=url, sealed=self.sealed)
            store: Any = made.api._store
            self._applications[variant] = made, store._store if self.sealed else store
        application, store = self._applications[variant]
        unsealed = opened if self.sealed else lambda id, name, raw: raw
        if self.server is not None:
            self.server.client.flushall()
            return application, store, OnServer(self.server.client, unsealed)
        clock = Clock()
        store = MemoryStore(clock)
        return application, store, InMemory(store, clock, unsealed)

    def close(self) -> None:
        for _, store in self._applications.values():
            store.close()


# -- one history


@dataclass
class Value:
    """Who stored it: a user, or a session that nobody is signed in on; ``visit``: in which
    attempt. ``free``: stored when the outcome was not known, perhaps in several places."""

    number: int
    owner: str | None
    id: str | None
    visit: int
    free: bool = False


@dataclass
class Browser:
    token: str | None = None
    olds: list[str] = field(default_factory=list)

    def take(self, token: str | None) -> None:
        if self.token is not None and token != self.token:
            self.olds.append(self.token)
        self.token = token


class Machine:
    """Carries out one history and looks at everything after every step."""

    def __init__(self, application: Application, faulty: Faulty, inside: Inside) -> None:
        self.application = application
        self.api = application.api
        self.faulty = faulty
        self.inside = inside
        self.browsers = {name: Browser() for name in BROWSERS}
        self.values: dict[int, Value] = {}
        self.visits = 0
        self.ended: set[str] = set()
        self.counted: Counter[str] = Counter()  # increments that returned, by session
        self.perhaps = 0  # increments whose outcome is not known
        self.violation: Violation | None = None

    def run(self, history: History) -> None:
        try:
            for step in history.steps:
                self.step(step)
                self.check()
        except Violation as violation:
            raise self.violation or violation from None

    def fail(self, kind: str, detail: str) -> Violation:
        """Remembered, since an application may swallow it."""
        violation = Violation(kind, detail)
        self.violation = self.violation or violation
        return violation

    # -- steps

    def step(self, step: Step) -> None:
        match step:
            case ("request", browser, cookies, flags, attempts):
                Played(self, browser, cookies, flags, attempts).run()
            case ("end user", user):
                mine = self.of(user)
                self.api.invalidate_user(user)
                self.ended |= mine
            case ("end session", browser):
                token = self.parsed(self.browsers[browser].token)
                if token is not None and self.api.invalidate_id(token.id):
                    self.ended.add(token.id)
            case ("forget", browser):
                token = self.parsed(self.browsers[browser].token)
                if token is not None:
                    self.inside.forget(token.id)
            case ("pass", seconds):
                self.inside.pass_time(seconds)
            case ("copy", browser, other):
                self.browsers[other].take(self.browsers[browser].token)
            case _:
                raise ValueError(step)

    def elsewhere(self, step: Step) -> None:
        """A step while a request is under way: in a thread and with a count of its own."""
        faulty = self.faulty
        before = faulty.count, faulty.loss, faulty.crossing
        faulty.begin()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                self.step(step)
                self.check()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        faulty.count, faulty.loss, faulty.crossing = before
        for error in failed:
            raise error

    def of(self, user: str) -> set[str]:
        return {id for id in self.inside.keys() if self.inside.user(id) == user}

    def parsed(self, value: str | None) -> Token | None:
        return None if value is None else self.api._cookie.parse(value)

    def number(self) -> int:
        self.visits += 1
        return self.visits

    # -- what has to hold whenever nobody is at work

    def check(self) -> None:
        if self.violation is not None:
            raise self.violation
        for id, key in self.inside.keys().items():
            self.check_key(id, key)

    def check_session(self, id: str | None) -> None:
        key = self.inside.keys().get(id or "")
        if id is not None and key is not None:
            self.check_key(id, key)

    def check_key(self, id: str, key: Key) -> None:
        fields, left = key.fields, key.left / 1000
        if left <= 0:
            raise self.fail("no ttl", f"{id} has {left} s left")
        if "@v" not in fields:
            if left > WINDOW or any(name[0] != "@" for name in fields):
                raise self.fail("tombstone", f"{sorted(fields)} for {left} s")
            return
        if id in self.ended:
            raise self.fail("undead", f"{id} was ended and has {sorted(fields)}")
        user = None if "@u" not in fields else fields["@u"].decode()
        if user is not None and id not in self.inside.index(user):
            raise self.fail("not in the index", f"{id} of {user}")
        for name, raw in fields.items():
            if name[0] != "@":
                self.check_values(id, user, f"{name} = {raw!r}")
        count = int(split(fields.get(NUMBER, b"0"))[1])
        if not self.counted[id] <= count <= self.counted[id] + self.perhaps:
            raise self.fail(
                "miscounted", f"{count}, counted {self.counted[id]}, perhaps {self.perhaps} more"
            )

    def check_values(self, id: str, user: str | None, text: str) -> None:
        for number in VALUE.findall(text):
            value = self.values[int(number)]
            if value.owner not in (None, user):
                raise self.fail("foreign value stored", f"{text} in a session of {user}")
            if value.free:
                continue
            if value.id not in (None, id):
                raise self.fail("value of another session stored", f"{text}: {value}")
            value.id = id


class Played:
    """One request of a history, from the cookie sent to the cookie kept."""

    def __init__(
        self,
        machine: Machine,
        browser: str,
        cookies: str,
        flags: tuple[str, ...],
        attempts: tuple[tuple[Call, ...], ...],
    ) -> None:
        self.machine = machine
        self.browser = machine.browsers[browser]
        self.sent = self.cookies(cookies)
        self.flags = flags
        self.attempts = attempts
        self.outer: Visit | None = None
        self.visit: Visit | None = None
        self.undisturbed = True  # nothing happened elsewhere meanwhile

    def cookies(self, how: str) -> list[str]:
        """What the browser sends."""
        machine, own = self.machine, self.browser.token
        old = self.browser.olds[-1:] or []
        mine = [] if own is None else [own]
        token = machine.parsed(own)
        again = [] if token is None else [machine.application.second_signer.value(token)]
        others = [b.token for b in machine.browsers.values() if b.token not in (None, own)][:1]
        return {
            "own": mine,
            "old first": [*old, *mine],
            "old last": [*mine, *old],
            "old alone": old or mine,
            "signed twice": [*again, *mine],
            "signed twice, last": [*mine, *again],
            "signed anew": again,
            "another's first": [*[other for other in others if other is not None], *mine],
            "broken first": ["broken", *mine],
            "none": [],
        }[how]

    def run(self) -> None:
        headers = {}
        if self.sent:
            headers["Cookie"] = "; ".join([f"sid={token}" for token in self.sent])
        environ = Request.blank("https://localhost/", headers=headers).environ
        environ["histories.played"] = self
        answer: list[Any] = []
        machine = self.machine
        machine.faulty.begin()
        try:
            body = machine.application.router(environ, lambda *given: answer.extend(given[:2]))
        except Violation:
            raise
        except Exception as error:
            raise machine.violation or machine.fail("untyped", repr(error)) from error
        finally:
            machine.faulty.begin()
        list(body)
        if machine.violation is not None:
            raise machine.violation
        status, given = int(answer[0].split()[0]), answer[1]
        self.answered(status, [v for n, v in given if n == "Set-Cookie" and v[:4] == "sid="])

    def answered(self, status: int, cookies: Sequence[str]) -> None:
        machine = self.machine
        if status not in (200, 403, 409, 503):
            raise machine.fail("untyped", f"answer {status}")
        if len(cookies) > 1:
            raise machine.fail("several cookies", f"{len(cookies)}")
        token = None
        if cookies:
            kept = cookies[0][4:].partition(";")[0] or None
            token = machine.parsed(kept)
            if "answer lost" not in self.flags:
                self.browser.take(kept)
        if self.visit is not None:
            self.visit.answered(status, token)


class Visit:
    """One attempt at a request, or a subrequest: its calls, and what each one promised."""

    def __init__(self, played: Played, request: Request, outer: "Visit | None" = None) -> None:
        self.played = played
        self.machine = played.machine
        self.request = request
        self.number = self.machine.number() if outer is None else outer.number
        self.session = request.altsession
        self.state: SessionState = self.session._state
        self.crossed = False
        self.held: list[str] | None = None
        self.signed_in: str | None = None
        self.renews_at_the_end = False
        # Acknowledged, and to be found when the answer is 200: written at once, and at the end.
        self.done: dict[str, Any] = {} if outer is None else outer.done
        self.later: dict[str, Any] = {} if outer is None else outer.later
        self.hidden: set[str] = set() if outer is None else outer.hidden

    # -- what it knows

    @property
    def id(self) -> str | None:
        """The session that the request has seen alive."""
        if self.state.status is not Status.ALIVE or self.state.token is None:
            return None
        return self.state.token.id

    @property
    def user(self) -> str | None:
        if self.id is None:
            return None
        known = USER in self.state.memo.fields
        return self.state.user if known else self.machine.inside.user(self.id)

    def fresh(self) -> str:
        """A value of its own."""
        number = len(self.machine.values)
        self.machine.values[number] = Value(number, self.user, self.id, self.number)
        return f"{self.user or 'anybody'}#{number}"

    def seen(self, found: Any) -> None:
        """No value of anybody else's. The end that a call finds may come after its values."""
        current = self.state.token.id if self.crossed and self.state.token else self.id
        for number in VALUE.findall(repr(found)):
            value = self.machine.values[int(number)]
            if value.id is not None and value.id == current:
                continue  # as far as this request knows; what is stored there is checked there
            if value.owner not in (None, self.user):
                raise self.machine.fail("foreign value", f"{found!r}, seen by {self.user}")
            if value.free:
                continue
            if value.id not in (None, current):
                raise self.machine.fail("value of another session", f"{found!r}: {value}")
            if value.id is None and value.visit != self.number:
                raise self.machine.fail("value of another attempt", f"{found!r}: {value}")

    def stored(self, key: str) -> Any:
        assert self.id is not None
        return self.machine.inside.value(self.id, key)

    def is_so(self, kind: str, found: Any, expected: Any) -> None:
        if found != expected:
            raise self.machine.fail(kind, f"{found!r}, not {expected!r}")

    def is_a(self, found: Any, *types: type) -> None:
        if type(found) not in types:
            raise self.machine.fail("wrong type", f"{found!r} is none of {types}")
        self.seen(found)

    def wrote(self, key: str, expected: Any) -> None:
        """An acknowledged write of one key is carried out."""
        self.later.pop(key, None)
        if self.crossed:
            self.done.pop(key, None)
            self.machine.check_session(self.id)
            return
        if self.id is None:
            raise self.machine.fail("not done", f"{key} was written, and there is no session")
        self.is_so("not done", self.stored(key), expected)
        self.done[key] = expected
        self.machine.check_session(self.id)

    # -- calls

    def perform(self, call: Call) -> None:
        faulty = self.machine.faulty
        faulty.begin()
        match call:
            case ("lost", what, which, inner):
                faulty.loss = what, which
                self.attempt(inner)
            case ("crossed", step, inner):
                self.crossed = True
                self.disturbed()
                faulty.crossing = partial(self.machine.elsewhere, step)
                self.attempt(inner)
                self.crossed = False
            case ("meanwhile", step):
                self.disturbed()
                self.machine.elsewhere(step)
            case ("sub", cookie, tweens, calls):
                self.subrequest(cookie, tweens, calls)
            case _:
                self.attempt(call)
        if call[0] != "lost" or call[3] != ("end",):
            faulty.begin()

    def disturbed(self) -> None:
        self.played.undisturbed = False
        self.done.clear()
        self.signed_in = None

    def attempt(self, call: Call) -> None:
        """One call, and only errors that it may raise."""
        try:
            self.call(call)
        except Violation as violation:
            self.machine.violation = self.machine.violation or violation
            raise
        except AltSessionError as error:
            self.failed(call, error)
            if "uncaught" in self.played.flags:
                raise
        except Exception as error:
            raise self.machine.fail("untyped", f"{call}: {error!r}") from error

    def failed(self, call: Call, error: AltSessionError) -> None:
        self.done.clear()
        if call[0] in ("login", "renew", "invalidate", "session invalidate"):
            self.signed_in = None
            self.played.undisturbed = False  # what was lost may have been done
        if isinstance(error, TooManySessions):
            return
        if not isinstance(error, StoreUnavailable) or call[0] in ("login", "invalidate"):
            self.later.clear()
        if isinstance(error, StoreUnavailable):
            if call == ("increment",) or (call[0] == "batch" and ("increment",) in call[1]):
                self.machine.perhaps += 1
            if self.id is None:
                for value in self.machine.values.values():
                    value.free = value.free or (value.visit == self.number and value.id is None)
        self.machine.check()

    def call(self, call: Call) -> None:
        getattr(self, "do_" + call[0].replace(" ", "_"))(*call[1:])

    def do_end(self) -> None:
        """Nothing: what is lost is lost at the end of the request."""

    def do_nobody(self, outer: str | None) -> None:
        """A subrequest without a cookie is a visitor without a session."""
        if self.session.userid() is not None or (outer is not None and self.id == outer):
            raise self.machine.fail("a stranger's session", f"{self.id} without a cookie")

    # reads

    def do_get(self, key: str) -> None:
        self.is_a(self.session.get(key), str, type(None))

    def do_get_fresh(self, key: str) -> None:
        found = self.session.get(key, fresh=True)
        self.is_a(found, str, type(None))
        if self.id is None or key in self.hidden or self.crossed:
            return
        self.is_so("not what is stored", found, self.stored(key))

    def do_mget(self) -> None:
        found = self.session.mget([*TEXTS, LIST])
        self.is_so("wrong type", list(found), [*TEXTS, LIST])
        self.seen(found)

    def do_all(self) -> None:
        self.is_a(self.session.all(), dict)

    def do_all_fresh(self) -> None:
        self.is_a(self.session.all(fresh=True), dict)

    def do_keys(self) -> None:
        self.is_a(self.session.keys(), list)

    def do_exists(self, key: str) -> None:
        self.is_a(self.session.exists(key), bool)

    def do_ttl(self) -> None:
        self.is_a(self.session.ttl(), float, int, type(None))

    def do_created(self) -> None:
        found = self.session.created()
        if found is not None:
            found.timestamp()

    def do_prefetch(self, key: str) -> None:
        self.session.prefetch(key)

    def do_userid(self) -> None:
        user = self.session.userid()
        self.is_a(user, str, type(None))
        if self.played.undisturbed:
            self.is_so("wrong user", user, self.machine.inside.user(self.id))

    def do_login_age(self) -> None:
        self.is_a(self.session.login_age(), float, type(None))

    # writes

    def do_set(self, key: str) -> None:
        text = self.fresh()
        self.session.set(key, text)
        self.wrote(key, text)

    def do_set_ttl(self, key: str) -> None:
        text = self.fresh()
        self.session.set(key, text, ttl=900)
        self.wrote(key, text)

    def do_mset(self) -> None:
        texts = {key: self.fresh() for key in TEXTS}
        self.session.mset(texts)
        for key, text in texts.items():
            self.wrote(key, text)

    def do_remove(self, key: str) -> None:
        before = self.before(key)
        found = self.session.remove(key)
        self.is_a(found, int)
        self.gone(key, found, before, lambda there: int(there is not None))

    def do_pop(self, key: str) -> None:
        before = self.before(key)
        found = self.session.pop(key)
        self.is_a(found, str, type(None))
        self.gone(key, found, before, lambda there: there)

    def before(self, key: str) -> Any:
        """What an atomic call has to find, or Ellipsis where that is not known."""
        return ... if self.id is None or key in self.hidden else self.stored(key)

    def gone(self, key: str, found: Any, before: Any, result: Callable[[Any], Any]) -> None:
        self.later.pop(key, None)
        if self.crossed or self.id is None:
            self.done.pop(key, None)
            return
        if before is not ...:
            self.is_so("made up", found, result(before))
        self.wrote(key, None)

    def do_setdefault(self, key: str) -> None:
        text = self.fresh()
        found = self.session.setdefault(key, text)
        self.is_a(found, str)
        self.wrote(key, found)

    def do_increment(self) -> None:
        found = self.session.increment(NUMBER)
        self.is_a(found, int)
        self.counted(found)

    def counted(self, found: int) -> None:
        if self.id is None:
            if not self.crossed:
                raise self.machine.fail("not done", "counted, and there is no session")
            self.machine.perhaps += 1
            return
        self.machine.counted[self.id] += 1
        if not self.crossed:
            self.is_so("made up", found, self.stored(NUMBER))

    def do_compare_and_set(self, key: str) -> None:
        expected, text = self.session.get(key), self.fresh()
        self.seen(expected)
        done = self.session.compare_and_set(key, expected, text)
        self.is_a(done, bool)
        if done:
            self.wrote(key, text)

    def do_modify(self) -> None:
        text = self.fresh()
        found = self.session.modify(LIST, lambda texts: [*texts, text][-4:], default=[])
        self.is_a(found, list)
        self.wrote(LIST, found)

    def do_touch(self) -> None:
        self.is_a(self.session.touch(), bool)

    def do_renew(self) -> None:
        if self.session.renew() and not self.crossed:
            self.proven()

    def proven(self) -> None:
        """The session answers to the token at hand, and to no other."""
        token = self.state.token
        if self.id is None or token is None:
            raise self.machine.fail("not done", "renewed, and there is no session")
        fields = self.machine.inside.fields(token.id)
        self.is_so("not done", fields.get("@v"), proof_of(token.verifier))
        self.is_so("not done", fields.get("@p"), None)

    def do_login(self, user: str, remember: float | None = None) -> None:
        before = self.id, self.user
        self.signed_in = None
        self.session.login(user, remember=remember)
        if self.id != before[0] or before[1] not in (None, user):
            self.done.clear()
            self.later.clear()
        if self.crossed:
            return
        self.is_so("wrong user", self.session.userid(), user)
        self.proven()
        self.is_so("wrong user", self.machine.inside.user(self.id), user)
        fields = self.machine.inside.fields(self.id)
        self.is_so("the planted CSRF token", fields.get("_csrft_"), None)
        self.machine.check_session(self.id)
        self.signed_in = user

    def do_invalidate(self) -> None:
        self.end(self.session.invalidate)

    def end(self, invalidate: Callable[[], Any]) -> None:
        before = self.id
        self.signed_in = None
        self.done.clear()
        self.later.clear()
        ended = invalidate()
        self.hidden.clear()
        if before is not None and ended and not self.crossed:
            self.machine.ended.add(before)
        if before is not None and ended is False:
            raise self.machine.fail("not done", "seen alive, and not ended")

    def do_batch(self, calls: tuple[Call, ...]) -> None:
        handles = []
        with self.session.batch() as batch:
            for call in calls:
                match call:
                    case ("set", key):
                        handles.append((call, batch.set(key, self.fresh())))
                    case ("setdefault", key):
                        handles.append((call, batch.setdefault(key, self.fresh())))
                    case ("increment",):
                        handles.append((call, batch.increment(NUMBER)))
                    case (name, *arguments):
                        handles.append((call, getattr(batch, name)(*arguments)))
        self.done.clear()
        for call, handle in handles:
            found = handle.result()
            match call:
                case ("set", _):
                    self.is_a(found, type(None))
                case ("setdefault", _):
                    self.is_a(found, str)
                case ("increment",):
                    self.is_a(found, int)
                    self.counted(found)
                case ("remove", _):
                    self.is_a(found, int)
                case ("all",):
                    self.is_a(found, dict)
                case _:
                    self.is_a(found, str, type(None))
            if len(call) == 2:
                self.later.pop(call[1], None)
        self.machine.check_session(self.id)

    # request.session

    def do_session_get(self, key: str) -> None:
        self.is_a(self.request.session.get(key), str, type(None))

    def do_session_set(self, key: str) -> None:
        self.hidden.add(key)
        text = self.fresh()
        self.request.session[key] = text
        self.expect_later(key, text)

    def do_session_del(self, key: str) -> None:
        self.hidden.add(key)
        with suppress(KeyError):
            del self.request.session[key]
            self.expect_later(key, None)

    def do_session_append(self) -> None:
        """A change in place of a list that is read, or made, here."""
        self.hidden.add(LIST)
        texts = self.request.session.setdefault(LIST, [])
        self.is_a(texts, list)
        texts.append(self.fresh())
        del texts[:-4]
        self.expect_later(LIST, texts)

    def do_session_replace(self) -> None:
        """A list made of the one there is."""
        self.hidden.add(LIST)
        texts = self.request.session.get(LIST, [])
        self.is_a(texts, list)
        texts = [*texts, self.fresh()][-4:]
        self.request.session[LIST] = texts
        self.expect_later(LIST, texts)

    def do_session_hold(self) -> None:
        self.held = self.request.session.get(LIST)
        self.is_a(self.held, list, type(None))

    def do_session_change_held(self) -> None:
        """A change in place of what was handed out before."""
        if self.held is not None:
            self.hidden.add(LIST)
            self.later.pop(LIST, None)
            self.done.pop(LIST, None)
            self.held.append(self.fresh())
            del self.held[:-4]

    def expect_later(self, key: str, value: Any) -> None:
        self.done.pop(key, None)
        self.later[key] = value

    def do_session_keys(self) -> None:
        self.is_a(list(self.request.session), list)

    def do_session_items(self) -> None:
        self.is_a(dict(self.request.session), dict)

    def do_session_user(self, user: str) -> None:
        """A sign-in of Pyramid's own helper, which renews the cookie at the end."""
        self.renews_at_the_end = True
        self.request.session[AUTH_USERID] = user
        self.expect_later(AUTH_USERID, user)

    def do_session_invalidate(self) -> None:
        self.end(self.request.session.invalidate)

    def do_flash(self) -> None:
        self.request.session.flash(self.fresh())

    def do_flash_once(self) -> None:
        self.request.session.flash(self.fresh(), allow_duplicate=False)

    def do_pop_flash(self) -> None:
        self.is_a(self.request.session.pop_flash(), list)

    def do_peek_flash(self) -> None:
        self.is_a(self.request.session.peek_flash(), list)

    def do_csrf(self) -> None:
        self.is_a(self.request.session.get_csrf_token(), str)

    def do_new_csrf(self) -> None:
        self.is_a(self.request.session.new_csrf_token(), str)

    # -- subrequests

    def subrequest(self, cookie: str, tweens: bool, calls: tuple[Call, ...]) -> None:
        sent = self.request.environ.get("HTTP_COOKIE")
        shared = cookie == "environ" or (cookie == "same" and bool(sent))
        if cookie == "environ":
            inner = Request(self.request.environ.copy())
        else:
            headers = {"Cookie": sent} if shared else {}
            inner = Request.blank("https://localhost/", headers=headers)
        outer = self.id
        if not shared:
            calls = (("nobody", outer), *calls)
        played = Subrequest(self, shared=shared, calls=calls)
        inner.environ["histories.played"] = played
        try:
            self.request.invoke_subrequest(inner, use_tweens=tweens)
        except AltSessionError:  # of its write-back, without tweens
            self.done.clear()
            self.later.clear()
        except Violation as violation:
            self.machine.violation = self.machine.violation or violation
            raise
        except Exception as error:
            raise self.machine.fail("untyped", f"a subrequest: {error!r}") from error
        if self.machine.violation is not None:
            raise self.machine.violation
        if self.state.status is not Status.ALIVE:
            self.later.clear()
        if not shared or self.state.status is not Status.ALIVE:
            self.done.clear()
        self.signed_in = None
        self.played.undisturbed = False

    # -- the answer

    def answered(self, status: int, token: Token | None) -> None:
        """The cookie opens what was promised, and what was acknowledged is stored."""
        inside, machine = self.machine.inside, self.machine
        if self.signed_in is not None and not self.renews_at_the_end:
            if token is None:
                raise machine.fail("wrong user", f"{self.signed_in} signed in, and no cookie sent")
            fields = inside.fields(token.id)
            self.is_so("wrong user", fields.get("@u"), self.signed_in.encode())
            self.is_so("wrong user", fields.get("@v"), proof_of(token.verifier))
        written = self.done | self.later
        if status != 200 or not any(written.values()):
            return
        current = self.state.token
        if current is None:
            raise machine.fail("not done", f"{written}: there is no session")
        for key, expected in written.items():
            found = inside.value(current.id, key)
            self.is_so("not done", (key, found), (key, expected))


class Subrequest(Played):
    """A request within another: it shares the other's session, or has nothing to do with it."""

    def __init__(self, outer: Visit, *, shared: bool, calls: tuple[Call, ...]) -> None:
        self.machine = outer.machine
        self.browser = outer.played.browser
        self.flags = ()
        self.outer = outer if shared else None
        self.attempts = (calls,)
        self.undisturbed = False


# -- making them


def random_history(random: Random) -> History:
    variant = random.choice(sorted(VARIANTS))
    return History(variant, tuple([random_step(random) for _ in range(random.randint(2, 7))]))


def random_step(random: Random) -> Step:
    return random_event(random) if random.random() < 0.25 else random_request(random)


def random_request(random: Random, depth: int = 0) -> Step:
    cookies = "own"
    if random.random() < 0.25:
        ways = "old first,old last,old alone,signed twice,signed twice+,signed anew,none"
        cookies = random.choice(
            [way.replace("+", ", last") for way in ways.split(",")]
            + ["another's first", "broken first"]
        )
    flags = [flag for flag in ("answer lost", "uncaught") if random.random() < 0.15]
    attempts = [random_calls(random, depth)]
    if random.random() < 0.3:
        attempts.append(random_calls(random, depth))
    return "request", random.choice(BROWSERS), cookies, tuple(flags), tuple(attempts)


def random_calls(random: Random, depth: int = 0) -> tuple[Call, ...]:
    return tuple([random_call(random, depth) for _ in range(random.randint(1, 5))])


def random_event(random: Random) -> Step:
    match random.randrange(6):
        case 0:
            return "end user", random.choice(USERS)
        case 1:
            return "end session", random.choice(BROWSERS)
        case 2:
            return "forget", random.choice(BROWSERS)
        case 3:
            return ("copy", *random.sample(BROWSERS, 2))
        case _:
            return "pass", random.choice([1, 6, 11, 30, 130, 1400])


def random_call(random: Random, depth: int) -> Call:
    chance = random.random()
    if depth < 2 and chance < 0.08:
        return "meanwhile", random_elsewhere(random, depth)
    if depth < 2 and chance < 0.10:
        return "crossed", random_elsewhere(random, depth), plain_call(random)
    if depth < 2 and chance < 0.15:
        calls = tuple([random_call(random, depth + 2) for _ in range(random.randint(1, 3))])
        return "sub", random.choice(["same", "environ", "none"]), random.random() < 0.5, calls
    if chance < 0.30:
        call = ("end",) if chance < 0.17 else plain_call(random)
        what = random.choice(["request", "reply", "reply", "repeat"])
        return "lost", what, random.choice([0, 0, 0, 1]), call
    return plain_call(random)


def random_elsewhere(random: Random, depth: int) -> Step:
    return random_event(random) if random.random() < 0.6 else random_request(random, depth + 2)


KEYED = "get,get fresh,exists,set,set ttl,remove,pop,setdefault,compare_and_set,prefetch,session get,session set,session set,session del".split(
    ","
)  # noqa: E501
BARE = "mget,all,all fresh,keys,ttl,created,userid,userid,login_age,mset,increment,increment,modify,touch,renew,renew,invalidate,session append,session append,session replace,session replace,session hold,session change held,session keys,session items,session invalidate,flash,flash once,pop flash,peek flash,csrf,new csrf".split(
    ","
)  # noqa: E501


def plain_call(random: Random) -> Call:
    chance = random.random()
    if chance < 0.15:
        return "login", random.choice(USERS)
    if chance < 0.17:
        return "login", random.choice(USERS), 5000.0
    if chance < 0.20:
        return "session user", random.choice(USERS)
    if chance < 0.25:
        return "batch", batched(random)
    if chance < 0.60:
        return random.choice(KEYED), random.choice(TEXTS)
    return (random.choice(BARE),)


def batched(random: Random) -> tuple[Call, ...]:
    names = random.sample(["get", "set", "pop", "setdefault", "remove", "increment", "all"], 3)
    return tuple(
        [
            (name,) if name in ("increment", "all") else (name, random.choice(TEXTS))
            for name in names
        ]
    )


# -- running them


def carry_out(world: World, history: History) -> Violation | None:
    """Run a history in an empty store; what it shows."""
    application, store, inside = world.empty(history.variant)
    machine = Machine(application, application.store(store), inside)
    try:
        machine.run(history)
    except Violation as violation:
        return violation
    return None


def find(world: World, seeds: Sequence[int]) -> Iterator[tuple[int, History, Violation]]:
    """The histories of these seeds that show something."""
    for seed in seeds:
        history = random_history(Random(seed))
        violation = carry_out(world, history)
        if violation is not None:
            yield seed, history, violation


def shrunk(world: World, history: History, kind: str) -> History:
    """A history that shows the same kind and nothing of which can be left out."""
    smaller = True
    while smaller:
        smaller = False
        for steps in smaller_lists(history.steps):
            candidate = History(history.variant, steps)
            found = carry_out(world, candidate)
            if found is not None and found.kind == kind:
                history, smaller = candidate, True
                break
    return history


def smaller_lists(items: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """A list without one of its items, or with a smaller one."""
    for at, item in enumerate(items):
        yield items[:at] + items[at + 1 :]
        for smaller in smaller_items(item):
            yield (*items[:at], smaller, *items[at + 1 :])


def smaller_items(item: Any) -> Iterator[Any]:
    """A step or a call with something less in it."""
    match item:
        case ("request", browser, cookies, flags, attempts):
            if cookies != "own":
                yield "request", browser, "own", flags, attempts
            for fewer in smaller_lists(tuple(flags)):
                yield "request", browser, cookies, fewer, attempts
            if len(attempts) > 1:
                for attempt in attempts:
                    yield "request", browser, cookies, flags, (attempt,)
            for at, calls in enumerate(attempts):
                for fewer in smaller_lists(calls):
                    changed = (*attempts[:at], fewer, *attempts[at + 1 :])
                    yield "request", browser, cookies, flags, changed
        case ("lost", what, which, call):
            yield call
            if which:
                yield "lost", what, 0, call
        case ("meanwhile", step):
            for smaller in smaller_items(step):
                yield "meanwhile", smaller
        case ("crossed", step, call):
            yield call
            yield "meanwhile", step
            for smaller in smaller_items(step):
                yield "crossed", smaller, call
        case ("sub", cookie, tweens, calls):
            for fewer in smaller_lists(calls):
                yield "sub", cookie, tweens, fewer
        case ("batch", calls) if len(calls) > 1:
            for fewer in smaller_lists(calls):
                yield "batch", fewer
