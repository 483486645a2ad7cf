"""Several calls in one round trip."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from .protocol.commands import UNSET, Command, Commands
from .protocol.keys import Key, SessionKey, Values
from .protocol.verbs import Refused, Verb

if TYPE_CHECKING:
    from .session import AltSession

T = TypeVar("T")
D = TypeVar("D")
E = TypeVar("E")


class Handle(Generic[T]):
    """The result of a call in a batch, once the block is over."""

    __slots__ = ("_call", "_error", "_results")

    def __init__(self, call: Command[T]) -> None:
        self._call = call
        self._results: Any = None
        self._error: BaseException | None = RuntimeError("the batch was not sent yet")

    def result(self) -> T:
        """The call's value. Inside the block it raises RuntimeError; after a block that failed, the
        block's error.
        """
        if self._error is not None:
            raise self._error
        return self._call.result(self._results)


_NOT_ENTERED = "a batch is sent when its block ends: with session.batch() as b: b.get(…)"
_OVER = "the batch is over: its block has ended"


class BatchBase:
    """The calls of a batch, until its block ends."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._handles: list[Handle[Any]] = []
        self._closed = _NOT_ENTERED

    # -- reads

    @overload
    def get(self, key: SessionKey[T, D]) -> Handle[T | D]: ...

    @overload
    def get(self, key: SessionKey[T, Any], default: E) -> Handle[T | E]: ...

    @overload
    def get(self, key: str, default: Any = None) -> Handle[Any]: ...

    def get(self, key: Key, default: Any = UNSET) -> Handle[Any]:
        return self._add(self._commands.get(key, default))

    @overload
    def mget(self, keys: Iterable[str], default: Any = None) -> Handle[dict[str, Any]]: ...

    @overload
    def mget(self, keys: Iterable[Key], default: Any = None) -> Handle[dict[Key, Any]]: ...

    def mget(self, keys: Iterable[Key], default: Any = UNSET) -> Handle[Any]:
        return self._add(self._commands.mget(keys, default))

    def all(self) -> Handle[dict[str, Any]]:
        return self._add(self._commands.all())

    def keys(self) -> Handle[list[str]]:
        return self._add(self._commands.keys())

    def exists(self, key: Key) -> Handle[bool]:
        return self._add(self._commands.exists(key))

    # -- writes

    @overload
    def set(
        self, key: SessionKey[T, Any], value: T, *, ttl: float | None = None
    ) -> Handle[None]: ...

    @overload
    def set(self, key: str, value: Any, *, ttl: float | None = None) -> Handle[None]: ...

    def set(self, key: Key, value: Any, *, ttl: float | None = None) -> Handle[None]:
        return self._add(self._commands.set(key, value, ttl))

    def mset(self, values: Values) -> Handle[None]:
        return self._add(self._commands.mset(values))

    def remove(self, keys: Key | Iterable[Key]) -> Handle[int]:
        return self._add(self._commands.remove(keys))

    @overload
    def pop(self, key: SessionKey[T, D]) -> Handle[T | D]: ...

    @overload
    def pop(self, key: SessionKey[T, Any], default: E) -> Handle[T | E]: ...

    @overload
    def pop(self, key: str, default: Any = None) -> Handle[Any]: ...

    def pop(self, key: Key, default: Any = UNSET) -> Handle[Any]:
        return self._add(self._commands.pop(key, default))

    @overload
    def setdefault(self, key: SessionKey[T, Any], value: T) -> Handle[T]: ...

    @overload
    def setdefault(self, key: str, value: Any) -> Handle[Any]: ...

    def setdefault(self, key: Key, value: Any) -> Handle[Any]:
        return self._add(self._commands.setdefault(key, value))

    def increment(self, key: Key, by: int = 1) -> Handle[int]:
        return self._add(self._commands.increment(key, by))

    def compare_and_set(self, key: Key, expected: Any, value: Any) -> Handle[bool]:
        return self._add(self._commands.compare_and_set(key, expected, value))

    # -- the end of the block

    def _add(self, call: Command[T]) -> Handle[T]:
        if self._closed:
            raise RuntimeError(self._closed)
        handle = Handle(call)
        self._handles.append(handle)
        return handle

    def _begin(self) -> None:
        if self._closed is not _NOT_ENTERED:
            raise RuntimeError(_OVER)  # otherwise its calls would be sent twice
        self._closed = ""

    def _end(self, error: BaseException | None) -> Sequence[Verb]:
        """The command to send."""
        self._closed = _OVER
        if error is not None:
            self._settle(RuntimeError("the batch was not sent: its block failed"))
            return ()
        return [verb for handle in self._handles for verb in handle._call.verbs]

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """If an error is raised inside, all handles raise it."""
        try:
            yield
        except Refused as refused:
            owners = [handle for handle in self._handles for _ in handle._call.verbs]
            error = TypeError(owners[refused.args[0]]._call.refused)
            self._settle(error)
            raise error from None
        except BaseException as raised:
            self._settle(raised)
            raise

    def _deliver(self, results: Sequence[Any]) -> None:
        place = 0
        for handle in self._handles:
            end = place + len(handle._call.verbs)
            handle._error, handle._results = None, results[place:end]
            place = end

    def _settle(self, error: BaseException) -> None:
        for handle in self._handles:
            handle._error = error


class Batch(BatchBase):
    """The calls of ``with session.batch() as b:``, sent as one packet when the block ends.

    Each call returns a :class:`Handle`, whose ``.result()`` is the value after the block. All are
    carried out in their order, or none is: when the session is gone (:exc:`SessionGone`), when
    ``increment`` finds something that is no number (TypeError), or when the block itself fails.
    Without a live session a batch that stores something makes one, as a single write would.

    One round trip. If nothing is written, it is one read, which does not ask again for keys that
    the request knows already; otherwise it is one write, whose reads see the server's data. In a
    batch ``compare_and_set`` compares with the value as this codec writes it.
    """

    def __init__(self, session: "AltSession") -> None:
        super().__init__(session.commands)
        self._session = session

    def __enter__(self) -> "Batch":
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        verbs = self._end(error)
        if error is None and self._handles:
            with self._sending():
                self._deliver(self._session.together(verbs))
