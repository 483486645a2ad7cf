"""A store that a test watches and steers, in place of an application's own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

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


def apis_of(app: object) -> list[SessionAPI]:
    """The ``SessionAPI`` of an application, found by its registry, and after it those of further
    sessions. It looks through WebTest's ``TestApp``, and through WSGI middleware that keeps the
    wrapped application as ``app`` or ``application``.

    TypeError if it finds none.
    """
    return _found_in(app)[0]


def registry_of(app: object) -> Any:
    """The application's registry, found as by :func:`apis_of`; None for a ``SessionAPI``."""
    return _found_in(app)[1]


def _found_in(app: object) -> tuple[list[SessionAPI], Any]:
    found: object = app
    while found is not None:
        if isinstance(found, SessionAPI):
            return [found], None
        registry: Any = getattr(found, "registry", found)
        if hasattr(registry, "queryUtility"):
            first = registry.queryUtility(ISessionAPI)
            if first is not None:
                further = [api for name, api in registry.getUtilitiesFor(ISessionAPI) if name]
                return [first, *further], registry
        found = getattr(found, "app", None) or getattr(found, "application", None)
    raise TypeError(
        "wanted an application that includes pyramid_altsession: what make_wsgi_app() returns, its"
        f" registry, its Configurator, or its SessionAPI; got {app!r}"
    )


def api_of(app: object) -> SessionAPI:
    """The first of them, that of ``request.altsession``."""
    return apis_of(app)[0]


def steered(app: object) -> list[SteeredStore]:
    """Steer all sessions of an application; see :func:`steer`."""
    stores = []
    for api in apis_of(app):
        holder: SessionAPI | ObservedStore | SealedStore = api
        while not isinstance(holder.store, SteeredStore):
            if isinstance(holder.store, ObservedStore | SealedStore):
                holder = holder.store
            else:
                holder.store = SteeredStore(holder.store)
        stores.append(holder.store)
    return stores


def steer(app: object) -> SteeredStore:
    """Put a store that tests can watch and steer around the application's own, if that was not done
    before. It applies to sessions that are opened from then on, so to all later requests. Where an
    application has further sessions, it does so for each of them; it returns the store of the
    first.

    ``app``: what ``make_wsgi_app()`` returns, its registry, the Configurator, a ``TestApp`` around
    it, or one SessionAPI, for its sessions only. All functions here that take an ``app`` call this
    by themselves.
    """
    return steered(app)[0]


@contextmanager
def watched(app: object, observer: Observer, plan: Plan | None = None) -> Iterator[None]:
    """Inside the block, call the observer for operations of all sessions, and apply the plan."""
    with ExitStack() as ends:
        for store in steered(app):
            ends.enter_context(store.watched(observer))
            if plan is not None:
                ends.enter_context(store.planned(plan))
        yield


@contextmanager
def round_trips(app: object, *, max: int = 1) -> Iterator[list[Step]]:
    """``with round_trips(app, max=1):`` AssertionError if the application's sessions need more
    round trips inside; it lists the operations.

    The block gets the growing list of operations. Each operation counts as one round trip, in
    memory too. Connecting does not count, nor does sending a script to a server for the first time.
    """
    trace = Trace()
    with watched(app, trace.note):
        yield trace.steps
    if len(trace.steps) > max:
        raise AssertionError(f"{len(trace.steps)} round trips, at most {max} wanted:\n{trace}")
