"""Fixtures of pyramid_altsession for pytest.

``pytest_plugins = ["pytest_altsession"]`` in the top-level conftest.py loads it. It is no entry
point: pytest would rewrite the assertions of the whole package then, and asset specifications such
as ``pyramid_altsession:…`` could not be resolved. It stands outside of the package and imports
nothing of it before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from webtest import TestApp

    from pyramid_altsession.stores.trace import Step
    from pyramid_altsession.testing import Clock, PrivateServer


@pytest.fixture
def altsession_settings() -> dict[str, str]:
    """Settings for an application whose sessions are in memory. Override it to use a server."""
    return {"altsession.redis.url": "memory://"}


@pytest.fixture(scope="session")
def altsession_private_server() -> Iterator[PrivateServer]:
    """A Valkey for the whole run; ``altsession_server`` gives it empty."""
    from pyramid_altsession.testing import private_server

    with private_server() as server:
        yield server


@pytest.fixture
def altsession_server(altsession_private_server: PrivateServer) -> str:
    """The value of ``altsession.redis.url`` for a private, empty Valkey server."""
    altsession_private_server.empty()
    return altsession_private_server.url


@pytest.fixture
def altsession_app() -> Any:
    """The application under test, as ``make_wsgi_app()`` returns it: your conftest.py makes it."""
    raise pytest.UsageError(
        "wanted a fixture altsession_app in your conftest.py that returns the application under"
        " test; it can use the fixture altsession_settings"
    )


@pytest.fixture
def altsession_browser(altsession_app: Any) -> TestApp:
    """A visitor of the application, as ``make_browser`` makes one."""
    from pyramid_altsession.testing import make_browser

    return make_browser(altsession_app)


@pytest.fixture
def altsession_round_trips(
    altsession_app: Any,
) -> Callable[..., AbstractContextManager[list[Step]]]:
    """``with altsession_round_trips(max=1):`` is ``round_trips`` for the application."""
    from pyramid_altsession.testing import round_trips

    return partial(round_trips, altsession_app)


@pytest.fixture
def altsession_clock(altsession_app: Any) -> Clock:
    """The clock of the application's sessions, which are in memory: ``settable_clock``."""
    from pyramid_altsession.testing import settable_clock

    return settable_clock(altsession_app)
