"""The one way of the tests into the package's own parts. What is not here has no name that begins
with an underscore in the tests, but for a few (tests/config/test_layout.py counts them)."""

from typing import Any

from pyramid_altsession.stores.apply import Change

Change = Change


def store_in(holder: Any) -> Any:
    """The store of the utility, or the one that is sealed."""
    return holder._store


def state_in(session: Any) -> Any:
    return session.driver.state


def lease_in(store: Any) -> Any:
    """The connections of a store on a server."""
    return store._pool


def idle_in(pool: Any) -> Any:
    return pool._idle


def places_in(pool: Any) -> Any:
    return pool._places


def builder_in(pool: Any) -> Any:
    return pool._build


def take(pool: Any) -> Any:
    return pool._take()


def socket_in(connection: Any) -> Any:
    return connection._sock


def cookie_in(api: Any) -> Any:
    """The name and the signature of the cookie."""
    return api._cookie


def kept_in(server: Any) -> Any:
    """The connections that an embedded server of ours keeps open."""
    return server._kept
