"""write.lua in Python; the contract suite checks that the two agree."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from ..protocol.fields import (
    CREATED,
    CSRF_TOKEN,
    DEAD_PROOFS,
    DEADLINE,
    FACTS,
    INFO,
    INFO_CHUNK,
    LOGIN,
    OWED,
    OWN_TTI,
    PREDECESSOR,
    PROOF,
    SEEN,
    TOMBSTONE,
    USER,
    Facts,
    Raw,
    State,
    belongs,
    by_predecessor,
    is_key,
    judge,
    keys_of,
    remember_dead,
    stamp,
    stamped,
)
from ..protocol.frame import alive
from ..protocol.lifecycle import Invalidate, Life, Login, Renew, Rotate
from ..protocol.messages import REVOKED, Reply, Write
from ..protocol.notices import notice
from ..protocol.verbs import Refused, Set, Verb

if TYPE_CHECKING:
    from .memory import MemoryStore


class Hash(dict[str, bytes]):
    """The fields of one key on the server, and when it ends (ms)."""

    expires: int = 0

    @property
    def facts(self) -> Facts:
        return Facts(*[self.get(name) for name in FACTS])

    def number(self, name: str) -> int | None:
        raw = self.get(name)
        return None if raw is None else int(raw)

    def remembered(self, now: int) -> int | None:
        deadline = self.number(DEADLINE)
        return None if deadline is None or OWN_TTI not in self else deadline - now


def extent(fields: Mapping[str, bytes], now: int) -> tuple[int, int]:
    """The number of a session's keys, and the bytes of their names and values, without values whose
    end has come.
    """
    present = keys_of(fields, now)
    return len(present), sum(len(name.encode()) + len(raw) for name, raw in present.items())


def apply(store: "MemoryStore", write: Write, now: int) -> Reply:
    """Carry out a Write as write.lua does: all or nothing, on a live session; otherwise the state
    says why not.
    """
    return GuardedWrite(store, write, now).reply()


class GuardedWrite:
    """One Write under way."""

    def __init__(self, store: "MemoryStore", write: Write, now: int) -> None:
        self.store = store
        self.write = write
        self.now = now
        self.id = write.claim.id
        self.timing = write.timing
        self.life = write.life
        self.held = store.hashes.get(self.id, Hash())
        self.draft = Hash(self.held)
        self.written: set[str] = set()
        self.user: Raw = self.held.get(USER)
        self.by_predecessor = by_predecessor(
            self.held.facts, write.claim.proof, now, write.timing.grace
        )

    def reply(self) -> Reply:
        if self.repeated():
            # The first try carried out everything. Besides the step, only Sets without a ttl are
            # possible.
            results = [None if isinstance(verb, Set) else 1 for verb in self.write.verbs]
            done = self.entries() if isinstance(self.life, Login) else 1
            return self.answer(results, done, self.held)
        state = self.guard()
        if state is State.LIVE and self.revoked():
            self.finish(b"revoked", b"")
            state = State.ENDED
        if state is not State.LIVE:
            return Reply(state, (), self.now)
        results = []
        for verb in self.write.verbs:
            try:
                results.append(self.apply(verb))
            except Refused:
                left = self.held.expires - self.now if self.held else None
                return Reply(State.REFUSED, len(results), self.now, left, user=self.user)
        outgrown = self.outgrown()
        if outgrown is not None:
            left = self.held.expires - self.now if self.held else None
            return Reply(State.FULL, outgrown, self.now, left, user=self.user)
        if isinstance(self.life, Login):
            state = self.admit(self.life)
            if state is not State.LIVE:
                return Reply(state, (), self.now, user=self.user)
        done = 0 if self.life is None else self.take(self.life)
        if isinstance(self.life, Invalidate):  # if it is another user's, nothing is written
            return Reply(State.LIVE, results, self.now, user=self.user, done=done)
        self.confirm()
        self.keep()
        return self.answer(results, done, self.draft)

    def repeated(self) -> bool:
        """Whether a first try was carried out and its reply lost."""
        if isinstance(self.life, Renew | Rotate | Login) and not self.write.create:
            return self.held.get(PROOF) == self.life.proof
        return isinstance(self.life, Invalidate) and self.held.get(TOMBSTONE) == self.life.nonce

    def revoked(self) -> bool:
        """Whether the index has lost this session and its user was logged out everywhere since the
        login. Any other lost entry is put back."""
        write, login = self.write, self.held.number(LOGIN)
        if write.user is None or login is None or write.create:
            return False
        if isinstance(self.life, Login | Invalidate) or self.id in self.index():
            return False
        if login < self.index().get(REVOKED, 0):
            return True
        self.index()[self.id] = login
        return False

    def owed(self) -> State:
        """The state of a tombstone for a request with its claim."""
        owed, mark = self.held.get(OWED), self.write.mark
        if owed is None or (owed and owed != mark):
            return State.ENDED
        self.held[OWED] = mark
        return State.OWED

    def guard(self) -> State:
        write, held, now = self.write, self.held, self.now
        facts = held.facts
        if held.expires - now > self.timing.window:
            # A tombstone lasts for the window, even if the clock was set back.
            facts = replace(facts, tombstone=None)
        state = judge(write.claim, facts, now, write.window, self.timing)
        there = write.anybody and state not in (State.DEAD, State.ENDED)
        if there or belongs(write.whose, state, facts):
            state = State.LIVE
        if write.create and not held:
            self.draft = Hash({PROOF: write.claim.proof, CREATED: b"%d" % now})
            if self.timing.lifetime:
                self.draft[DEADLINE] = b"%d" % (now + self.timing.lifetime)
            return State.LIVE
        if state is State.ENDED:
            return self.owed()
        if state is State.REUSED:
            self.finish(b"reused", write.mark)
        deadline, seen = held.number(DEADLINE), held.number(SEEN)
        if state is State.LIVE and deadline is not None and seen is not None and now < seen:
            deadline -= seen - now  # the clock was set back: the end moves with it
            self.draft[DEADLINE] = b"%d" % deadline
            if now >= deadline:
                del self.store.hashes[self.id]
                return State.DEAD
        return state

    def apply(self, verb: Verb) -> Any:
        draft, names = self.draft, verb.names
        if names is None:
            names = tuple([name for name in draft if name[:1] != "@"])
        held = {name: alive(draft.get(name), self.now) for name in names}
        changes, result = verb.work(held, self.now)
        if isinstance(verb, Set):
            self.written.add(verb.name)  # told, even if the value is the same
        for name, raw in (held | changes).items():
            self.put(name, raw)  # an ended value is removed, even if the verb only reads it
        return result

    def outgrown(self) -> tuple[bytes, int] | None:
        """The limit that the write would exceed by adding to the session ("keys" or "bytes"), and
        the new number.
        """
        limits = (self.timing.max_keys, self.timing.max_bytes)
        if not any(limits):
            return None
        before, after = extent(self.held, self.now), extent(self.draft, self.now)
        for what, limit, had, found in zip((b"keys", b"bytes"), limits, before, after, strict=True):
            if 0 < limit < found > had:
                return what, found
        return None

    def take(self, life: Life) -> int:
        """Carry out this step of the session's life; returns its result."""
        match life:
            case Renew():
                self.replace(life.proof)
            case Rotate():
                since = self.held.facts.verifier_since
                arrived = self.by_predecessor and not self.held.facts.unconfirmed
                if since is None or self.now - since < life.after or arrived:
                    return 0
                self.rotate(life.proof)
            case Invalidate():
                if life.user and life.user.encode() != self.held.get(USER):
                    return 0
                self.finish(life.nonce, None if life.told else b"")
                self.index().pop(self.id, None)
            case Login():
                self.login(life)
                return self.entries()
        return 1

    def login(self, login: Login) -> None:
        draft = self.draft
        if not self.write.create:
            self.replace(login.proof)
        draft[USER] = login.user.encode()
        draft[LOGIN] = b"%d" % self.now
        draft[DEADLINE] = b"%d" % (self.now + login.lifetime)
        self.put(OWN_TTI, None if login.tti is None else b"%d" % login.tti)
        self.put(CSRF_TOKEN, None)
        for chunk, name in enumerate(INFO):
            part = login.info[chunk * INFO_CHUNK : (chunk + 1) * INFO_CHUNK]
            self.put(name, part or None)

    def admit(self, login: Login) -> State:
        index = self.index()
        others = index.keys() - {REVOKED, *login.ended}
        if 0 < login.limit <= len(others) and self.id not in index:
            return State.SESSION_LIMIT
        if self.user is not None and self.user != login.user.encode():
            self.finish(b"others", None)
            return State.OTHER_USER
        index[self.id] = self.now
        return State.LIVE

    def index(self) -> dict[str, int]:
        return self.store.indexes.setdefault(self.write.user or "", {})

    def entries(self) -> int:
        return len(self.index().keys() - {REVOKED})

    def put(self, name: str, value: Raw) -> None:
        if self.draft.pop(name, None) != value:
            self.written.add(name)
        if value is not None:
            self.draft[name] = value

    def bury(self, proof: bytes, died: int) -> None:
        self.draft[DEAD_PROOFS] = remember_dead(self.draft.get(DEAD_PROOFS), proof, died)

    def replace(self, proof: bytes) -> None:
        """After a sign-in or an explicit renewal no predecessor is accepted any more."""
        previous = self.draft.pop(PREDECESSOR, None)
        if previous is not None:
            self.bury(previous[:32], self.now)
        self.bury(self.draft[PROOF], self.now)
        self.draft[PROOF] = proof

    def rotate(self, proof: bytes) -> None:
        previous = self.held.get(PREDECESSOR)
        if self.by_predecessor:
            self.bury(self.draft[PROOF], self.now)  # its answer was lost, so no browser has it
        elif previous is not None:
            confirmed = stamped(previous[32:37])
            self.bury(previous[:32], min(self.now, (confirmed or self.now) + self.timing.grace))
        self.draft[PROOF] = proof
        self.draft[PREDECESSOR] = self.write.claim.proof + stamp(0) + stamp(self.now)

    def confirm(self) -> None:
        """The first use of a new verifier begins its predecessor's grace."""
        previous = self.draft.get(PREDECESSOR)
        unchanged = previous == self.held.get(PREDECESSOR)
        own = self.held.get(PROOF) == self.write.claim.proof
        if previous is not None and unchanged and own and self.held.facts.unconfirmed:
            self.draft[PREDECESSOR] = previous[:32] + stamp(self.now) + previous[37:]

    def finish(self, nonce: bytes, owed: Raw) -> None:
        """``owed``: None if an answer tells the browser; otherwise the mark of the request that may
        start the next session, or empty: the first request that asks may.
        """
        self.store.hashes.pop(self.id, None)
        if self.timing.window:
            tombstone = self.store.hashes[self.id] = Hash({TOMBSTONE: nonce})
            if owed is not None:
                tombstone[OWED] = owed
            tombstone.expires = self.now + self.timing.window
        if self.timing.notify:
            self.store.publish(self.id, notice("ended"))

    def keep(self) -> None:
        self.draft[SEEN] = b"%d" % self.now
        times = self.timing.own(self.draft.number(OWN_TTI))
        self.draft.expires = self.now + times.tti + times.interval
        deadline = self.draft.number(DEADLINE)
        if deadline is not None:
            self.draft.expires = min(self.draft.expires, deadline)
        self.store.hashes[self.id] = self.draft
        if self.timing.notify and PROOF in self.held:
            self.tell()

    def tell(self) -> None:
        """Publish that the session was renewed, and which keys changed, if that is wanted."""
        renewed = self.draft[PROOF] != self.held[PROOF]
        told = filter(is_key, self.written) if self.timing.notify == b"k" else ()
        names = tuple(told)
        if renewed or names:
            self.store.publish(self.id, notice("renewed" if renewed else "changed", *names))

    def answer(self, results: list[Any], done: int, held: Hash) -> Reply:
        left, remembered = held.expires - self.now, held.remembered(self.now)
        since = self.held.facts.verifier_since
        return Reply(
            State.LIVE, results, self.now, left, 0, None, remembered, self.user, since, done
        )
