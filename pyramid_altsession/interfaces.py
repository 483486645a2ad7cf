"""The public interfaces, in short. Read this first; the classes have the details.

=====================  ==================================================
ISessionAPI            :class:`pyramid_altsession.api.SessionAPI`
IAltSession            :class:`pyramid_altsession.session.AltSession`
Store, Codec           what can be replaced: where sessions live, value <-> bytes
=====================  ==================================================
"""
# mypy: disable-error-code="no-untyped-def,misc"

from typing import Any, Protocol, runtime_checkable

from zope.interface import Attribute, Interface

from .protocol.contract import PendingRead, Store

__all__ = [
    "Codec",
    "IAltSession",
    "ISessionAPI",
    "ISessionCreated",
    "ISessionEvent",
    "ISessionInvalidated",
    "ISessionRenewed",
    "ITokenRejected",
    "PendingRead",
    "SealingCodec",
    "Store",
]


class Codec(Protocol):
    """Value <-> bytes of one key. For ``increment`` and ``flash`` to work, whole numbers have to be
    stored as decimal digits, and lists as JSON.
    """

    def encode(self, key: str, value: Any) -> bytes:
        """A TypeError has to name the key, and the place of the fault within the value."""

    def decode(self, key: str, raw: bytes) -> Any:
        """A new object each time; CorruptValue when the bytes are not this codec's."""


@runtime_checkable
class SealingCodec(Codec, Protocol):
    """A codec whose bytes are sealed on their way to the server, each for its session and key."""

    def seal(self, id: str, key: str, plain: bytes) -> bytes:
        """The sealed bytes, which do not begin with ``@`` and are at most 64 bytes longer."""

    def unseal(self, id: str, key: str, sealed: bytes) -> bytes | None:
        """The plain bytes; None if they were not sealed for this session and key, or not with our
        secrets.
        """


class ISessionAPI(Interface):
    """The utility: one per registry, thread-safe."""

    def session(request):
        """The AltSession of a request: ``request.altsession``."""

    def open(token):
        """The session of a token, for code without a request. It never makes a session."""

    def attach(id, userid):
        """The session with this id, if it is this user's, whatever its cookie is."""

    def create(values=None):
        """A new session, for code without a request; ``.token`` is its cookie's value."""

    def sessions_of(userid, *, keys=False):
        """A user's sessions as SessionInfo, newest login first; with keys and sizes."""

    def invalidate_user(userid, keep=None, *, durable=False):
        """End all sessions of a user, but ``keep``; how many."""

    def describe(id, *, keys=False):
        """SessionInfo of one session, or None; with keys and sizes."""

    def values_of(id):
        """The keys and values of a session, or None; for administration."""

    def invalidate_id(id, userid=...):
        """End one session by its public handle; with userid, only if it is this user's."""

    def health():
        """What the servers report about themselves, as Health."""

    def pool_usage():
        """The connections of this process to each server, as PoolUsage. No I/O."""

    def invalidate_all(*, progress=None):
        """End every session; how many."""

    def scan(*, keys=False):
        """SessionInfo of every session; with keys and sizes."""

    def observe(observer):
        """Have ``observer(observation)`` called after each operation on the store."""

    def check():
        """Raise StoreUnavailable unless the server answers and allows everything that sessions
        need.
        """

    def close():
        """Close the connections."""


class IAltSession(Interface):
    """The session of one request."""

    id = Attribute("Public handle, or None until seen alive or made. No I/O.")
    new = Attribute("Whether this request made the session. No I/O.")

    def get(key, default=None, *, fresh=False):
        """One value."""

    def mget(keys, default=None, *, fresh=False):
        """A dict with every asked key."""

    def all(*, fresh=False):
        """Every key with its value."""

    def keys(*, fresh=False):
        """Every key."""

    def exists(key=None, *, fresh=False):
        """Whether the session is alive, or holds a key."""

    def created():
        """When the session was made."""

    def ttl():
        """Seconds until the server forgets the session."""

    def set(key, value, *, ttl=None):
        """Store one value; with ``ttl``, for that many seconds."""

    def mset(values):
        """Store several values in one step."""

    def remove(keys):
        """Remove one key or many; how many were there."""

    def pop(key, default=None):
        """Remove a value and return it; only one caller gets it."""

    def setdefault(key, value):
        """Store a value unless there is one; returns the value that is stored afterwards."""

    def increment(key, by=1):
        """Add to a whole number; the sum."""

    def compare_and_set(key, expected, value):
        """Store if the stored value equals what is expected."""

    def modify(key, function, default=None):
        """Replace a value by function(value), safely, even if several requests do so at once."""

    def batch():
        """Several calls in one round trip, as the block of a with statement."""

    def prefetch(*keys):
        """Ask for keys now, and take the answer when the first of them is used."""

    def touch():
        """Restart the time to idle."""

    def login(userid, *, remember=None, info=None, durable=False):
        """Bind the session to a user under a new cookie; the data stays."""

    def logout(*, durable=False):
        """End the session."""

    def end_others():
        """End all other sessions of the signed-in user; how many."""

    def userid():
        """The user that the session is bound to."""

    def login_age():
        """Seconds since the login."""

    def renew(*, durable=False):
        """New cookie, same session."""

    def invalidate(*, durable=False):
        """End the session."""


class ISessionEvent(Interface):
    """Something happened to a session; sent when the session's own state is final."""

    id = Attribute("The session's public handle; never a secret.")
    request = Attribute("The request, or None.")
    userid = Attribute("The session's user as far as it was known, or None.")
    reason = Attribute("What made it happen, a word or two.")


class ISessionCreated(ISessionEvent):
    """A session was made."""


class ISessionRenewed(ISessionEvent):
    """A session has a new cookie."""


class ISessionInvalidated(ISessionEvent):
    """A session was ended by a call."""


class ITokenRejected(ISessionEvent):
    """A cookie named a live session with a wrong verifier: stale, guessed or stolen."""
