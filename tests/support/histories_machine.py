"""One history carried out, and everything that has to hold looked at after each call and step."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyramid_retry
from histories_store import USERS, Faulty, Inside, Key, Violation
from inside import put_store, state_in
from pyramid.config import Configurator
from pyramid.registry import Registry
from pyramid.request import Request
from pyramid.response import Response
from pyramid.tweens import INGRESS
from sealed import SECRET

from pyramid_altsession import ISessionAPI, SessionAPI
from pyramid_altsession.errors import AltSessionError, StoreUnavailable, TooManySessions
from pyramid_altsession.protocol.fields import USER
from pyramid_altsession.protocol.frame import split
from pyramid_altsession.protocol.state import SessionState, Status
from pyramid_altsession.protocol.token import Token, proof_of
from pyramid_altsession.stores.sealed import SealedStore
from pyramid_altsession.web.cookie import SessionCookie

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

BROWSERS = ("one", "two", "three")
TEXTS = ("a", "b")
LIST, NUMBER = "list", "n"
AUTH_USERID = "auth.userid"
LOST_AT_THE_END = (("lost", "reply", 0, ("end",)),)
VALUE = re.compile(rf"(?:{'|'.join(USERS)}|anybody)#(\d+)")


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
                "histories_machine.retried_outages",
                under=INGRESS,
                over="pyramid_altsession.tween.altsession_tween_factory",
            )
        config.add_route("play", "/")
        config.add_view(play, route_name="play")
        self.router = config.make_wsgi_app()
        self.api: SessionAPI = config.registry.getUtility(ISessionAPI)
        self.signer = SessionCookie(self.api.settings.session)
        second = replace(self.api.settings.session, secret=SECRETS[::-1])
        self.second_signer = SessionCookie(second)
        self.sealed = sealed

    def store(self, store: Any) -> Faulty:
        """Another store in place of the one there is."""
        faulty = Faulty(store)
        codec: Any = self.api.commands.codec
        put_store(self.api, SealedStore(faulty, codec) if self.sealed else faulty)
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
    fails_by_itself = played.attempts[min(attempt, last)][-1:] == LOST_AT_THE_END
    if attempt < last and request.environ.get("retry.attempts", 1) > 1 and not fails_by_itself:
        raise pyramid_retry.RetryableException
    played.machine.faulty.count = 0  # the end of the request counts by itself
    return Response("played")


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

    def run(self, steps: Sequence[Step]) -> None:
        try:
            for step in steps:
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
        return {id for id in self.inside.all() if self.inside.user(id) == user}

    def parsed(self, value: str | None) -> Token | None:
        return None if value is None else self.application.signer.parse(value)

    def number(self) -> int:
        self.visits += 1
        return self.visits

    # -- what has to hold whenever nobody is at work

    def check(self) -> None:
        if self.violation is not None:
            raise self.violation
        for id, key in self.inside.all().items():
            self.check_key(id, key)

    def check_session(self, id: str | None) -> None:
        key = self.inside.all().get(id or "")
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
        user = None if USER not in fields else fields[USER].decode()
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
        self.state: SessionState = state_in(self.session)
        self.crossed = False
        self.repeated = False
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
        known = USER in self.state.cache.fields
        return self.state.user if known else self.machine.inside.user(self.id)

    def fresh(self) -> str:
        """A value of its own."""
        number = len(self.machine.values)
        value = Value(number, self.user, self.id, self.number, free=self.repeated)
        self.machine.values[number] = value
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
                self.repeated = what == "repeat" and self.id is None
                if self.repeated:
                    self.unbind()
                self.attempt(inner)
                self.repeated = False
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
        if AUTH_USERID in call or call[0] == "session user":
            self.renews_at_the_end = True
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
        if call[0] in ("login", "renew", "invalidate", "session invalidate") or AUTH_USERID in call:
            self.signed_in = None
            self.played.undisturbed = False  # what was lost may have been done
        if isinstance(error, TooManySessions):
            if self.id is None:  # the session that was there has ended, too
                self.later.clear()
            return
        if not isinstance(error, StoreUnavailable) or call[0] in ("login", "invalidate"):
            self.later.clear()
        if isinstance(error, StoreUnavailable):
            if call == ("increment",) or (call[0] == "batch" and ("increment",) in call[1]):
                self.machine.perhaps += 1
            self.unbind()
        self.machine.check()

    def unbind(self) -> None:
        """Without a session: what is stored may be in a new one whose cookie nobody has."""
        for value in self.machine.values.values():
            if self.id is None and value.id is None and value.visit == self.number:
                value.free = True

    def call(self, call: Call) -> None:
        getattr(self, "do_" + call[0].replace(" ", "_"))(*call[1:])

    def do_end(self) -> None:
        """Nothing: what is lost is lost at the end of the request."""

    def do_nobody(self, outer: str | None) -> None:
        """A subrequest without a cookie is a visitor without a session."""
        if self.session.userid() is not None or (outer is not None and self.id == outer):
            raise self.machine.fail("a stranger's session", f"{self.id} without a cookie")

    def do_shared(self, outer: str | None) -> None:
        """A subrequest of the same visitor has the session at hand."""
        if outer is not None and self.session.id != outer:
            raise self.machine.fail("a stranger to its own request", f"{self.id}, not {outer}")

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
        self.is_so("planted CSRF token", fields.get("_csrft_"), None)
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
                    self.later.clear()  # written before, or not yet
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
        self.hidden.add(AUTH_USERID)
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
        came = self.machine.application.signer.candidates(self.request.environ)
        shared = cookie == "environ" or (cookie == "same" and bool(came))
        if cookie == "environ":
            inner = Request(self.request.environ.copy())
        else:
            headers = {"Cookie": sent} if shared else {}
            inner = Request.blank("https://localhost/", headers=headers)
        calls = (("shared" if shared else "nobody", self.id), *calls)
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
        if played.visit is not None and played.visit.renews_at_the_end:
            self.renews_at_the_end = True

    # -- the answer

    def answered(self, status: int, token: Token | None) -> None:
        """The cookie opens what was promised, and what was acknowledged is stored."""
        inside, machine = self.machine.inside, self.machine
        if self.signed_in is not None and not self.renews_at_the_end:
            if token is None:
                raise machine.fail("wrong user", f"{self.signed_in} signed in, and no cookie sent")
            fields = inside.fields(token.id)
            self.is_so("wrong user", fields.get(USER), self.signed_in.encode())
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
