"""A store that a test watches and steers, in place of an application's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from ..api import SessionAPI
from ..interfaces import ISessionAPI
from ..protocol.messages import Operation, Read, Reply
from ..stores.observed import ObservedRead, ObservedStore, Observer
from ..stores.sealed import SealedStore
from ..stores.trace import Step, Trace
from ..stores.traffic import Traffic

turn: ContextVar[Callable[[Operation], None] | None] = ContextVar(
    "pyramid_altsession.testing.turn", default=None
)
"""In a request that ``race`` runs: called before each operation, to wait for its turn."""


class Plan(Protocol):
    """Called before and after operations. If it raises an error, the operation fails with it."""

    def before(self, operation: Operation) -> None: ...

    def after(self, operation: Operation) -> None: ...


class SteeredStore(ObservedStore):
    """It wraps the innermost store, below a codec that seals: each of its operations is one round
    trip on an open connection.
    """

    plans: tuple[Plan, ...] = ()

    def execute(self, operation: Operation) -> Reply:
        with self.watching(operation, Traffic()) as watched:
            watched.reply = reply = self._carry_out(operation)
        return reply

    def send(self, operation: Read) -> ObservedRead:
        self._before(operation)
        pending = super().send(operation)
        try:
            self._after(operation)
        except BaseException:
            pending.cancel()
            raise
        return pending

    @contextmanager
    def watched(self, observer: Observer) -> Iterator[None]:
        """Call the observer for operations inside the block."""
        self.observers += (observer,)
        try:
            yield
        finally:
            self.observers = tuple([each for each in self.observers if each is not observer])

    @contextmanager
    def planned(self, plan: Plan) -> Iterator[None]:
        """Apply the plan to operations inside the block."""
        self.plans += (plan,)
        try:
            yield
        finally:
            self.plans = tuple([each for each in self.plans if each is not plan])

    def _carry_out(self, operation: Operation) -> Reply:
        self._before(operation)
        reply = self.store.execute(operation)
        self._after(operation)
        return reply

    def _before(self, operation: Operation) -> None:
        wait = turn.get()
        if wait is not None:
            wait(operation)
        for plan in self.plans:
            plan.before(operation)

    def _after(self, operation: Operation) -> None:
        for plan in self.plans:
            plan.after(operation)


def api_of(app: object) -> SessionAPI:
    """The ``SessionAPI`` of an application, found by its registry. It looks through WebTest's
    ``TestApp``, and through WSGI middleware that keeps the wrapped application as ``app`` or
    ``application``.

    TypeError if it finds none.
    """
    found: object = app
    while found is not None:
        if isinstance(found, SessionAPI):
            return found
        registry = getattr(found, "registry", found)
        if hasattr(registry, "queryUtility"):
            api = registry.queryUtility(ISessionAPI)
            if api is not None:
                return api
        found = getattr(found, "app", None) or getattr(found, "application", None)
    raise TypeError(
        "wanted an application that includes pyramid_altsession: what make_wsgi_app() returns, its"
        f" registry, its Configurator, or its SessionAPI; got {app!r}"
    )


def steer(app: object) -> SteeredStore:
    """Put a store that tests can watch and steer around the application's own, if that was not done
    before. It applies to sessions that are opened from then on, so to all later requests.

    ``app``: what ``make_wsgi_app()`` returns, its registry, the Configurator, a ``TestApp`` around
    it, or its SessionAPI. All functions here that take an ``app`` call this by themselves.
    """
    holder: SessionAPI | ObservedStore | SealedStore = api_of(app)
    while not isinstance(holder.store, SteeredStore):
        if isinstance(holder.store, ObservedStore | SealedStore):
            holder = holder.store
        else:
            holder.store = SteeredStore(holder.store)
    return holder.store


@contextmanager
def round_trips(app: object, *, max: int = 1) -> Iterator[list[Step]]:
    """``with round_trips(app, max=1):`` AssertionError if the application's sessions need more
    round trips inside; it lists the operations.

    The block gets the growing list of operations. Each operation counts as one round trip, in
    memory too. Connecting does not count, nor does sending a script to a server for the first time.
    """
    trace = Trace()
    with steer(app).watched(trace.note):
        yield trace.steps
    if len(trace.steps) > max:
        raise AssertionError(f"{len(trace.steps)} round trips, at most {max} wanted:\n{trace}")
