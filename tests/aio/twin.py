"""The awaitable session and utility in the place of the plain ones, for the plain ones' tests."""

import inspect
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from inside import store_in
from pyramid.request import Request
from zope.interface import implementer

from pyramid_altsession import IAltSession, SessionAPI
from pyramid_altsession.aio.api import AsyncSessionAPI
from pyramid_altsession.aio.session import AsyncAltSession, AsyncDriver
from pyramid_altsession.aio.store import DirectStore
from pyramid_altsession.config.sources import read_settings
from pyramid_altsession.config.table import Settings
from pyramid_altsession.interfaces import Store
from pyramid_altsession.stores import open_store

T = TypeVar("T")


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The value of what never waits, as its store answers at once."""
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    raise AssertionError("it waited")


class Waited:
    """Any awaitable object as a plain one."""

    def __init__(self, awaited: Any) -> None:
        self.__dict__["awaited"] = awaited

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.awaited, name)
        return self._plain(found) if inspect.ismethod(found) else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.awaited, name, value)

    def _plain(self, call: Any) -> Any:
        def plain(*arguments: Any, **named: Any) -> Any:
            result = call(*arguments, **named)
            if inspect.iscoroutine(result):
                result = at_once(result)
            if inspect.isasyncgen(result):
                return everything(result)
            if isinstance(result, AsyncAltSession):
                return WaitedSession(result)
            return Waited(result) if hasattr(result, "__aenter__") else result

        return plain

    def __enter__(self) -> Any:
        at_once(self.awaited.__aenter__())
        return self

    def __exit__(self, *error: Any) -> Any:
        return at_once(self.awaited.__aexit__(*error))

    def __repr__(self) -> str:
        return repr(self.awaited)

    def __getitem__(self, key: Any) -> Any:
        return self.awaited[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.awaited[key] = value

    def __delitem__(self, key: Any) -> None:
        del self.awaited[key]

    def __contains__(self, key: Any) -> bool:
        return key in self.awaited

    def __iter__(self) -> Iterator[Any]:
        return iter(self.awaited)


@implementer(IAltSession)
class WaitedSession(Waited):
    """A session."""


def everything(generator: Any) -> Iterator[Any]:
    while True:
        try:
            yield at_once(generator.__anext__())
        except StopAsyncIteration:
            return


class TwinAPI(SessionAPI):
    """The plain utility, all of whose calls are those of the awaitable one: beside it Pyramid reads
    and sends the cookies."""

    def __init__(self, settings: Settings, store: Store | None = None, **more: Any) -> None:
        store = open_store(settings) if store is None else store
        super().__init__(settings, store, **more)
        self._twin = Waited(AsyncSessionAPI(settings, DirectStore(store), **more))
        for name in (
            "open",
            "attach",
            "create",
            "invalidate_user",
            "invalidate_id",
            "values_of",
            "invalidate_all",
            "check",
            "close",
        ):
            setattr(self, name, getattr(self._twin, name))

    def session(self, request: Request) -> Any:
        known = request.__dict__.get("waited")
        if known is None:
            plain = super().session(request)
            driver = AsyncDriver(
                store_in(self._twin.awaited), plain.driver.state, plain.driver.notify
            )
            session = AsyncAltSession(driver, self.commands, self.settings.session)
            known = request.__dict__["waited"] = WaitedSession(session)
        return known


@pytest.fixture(autouse=True)
def twin(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The module's tests make the awaitable utility where they would make the plain one."""
    monkeypatch.setattr(request.module.ORIGINAL, "SessionAPI", TwinAPI)


@pytest.fixture(params=["memory", "valkey-unix"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """Stores that answer at once, empty."""
    url = "memory://"
    if request.param != "memory":
        url = request.getfixturevalue("server").url
    opened = open_store(read_settings({"redis": {"url": url}}))
    yield opened
    opened.close()
