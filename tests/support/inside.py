"""The one way of the tests into the package's own parts. What is not here has no name that begins
with an underscore in the tests, but for a few (tests/config/test_layout.py counts them)."""

from typing import Any

from pyramid_altsession.stores import embedded, supervisor
from pyramid_altsession.stores.apply import GuardedWrite

GuardedWrite = GuardedWrite

# -- stores


def store_in(holder: Any) -> Any:
    """The store of the utility, or the one that is sealed."""
    return holder.store


def put_store(holder: Any, store: Any) -> None:
    """Another one in its place."""
    holder.store = store


def state_in(session: Any) -> Any:
    return session.driver.state


# -- connections


def lease_in(store: Any) -> Any:
    """The connections of a store on a server."""
    return store._pool


def put_lease(store: Any, pool: Any) -> None:
    """Others in their place."""
    store._pool = pool
    store.servers[None] = store.servers[None]._replace(pool=pool)


def idle_in(pool: Any) -> Any:
    return pool._idle


def places_in(pool: Any) -> Any:
    return pool._places


def breaker_in(pool: Any) -> Any:
    return pool._breaker


def builder_in(pool: Any) -> Any:
    return pool._build


def build_with(pool: Any, build: Any) -> None:
    """Let the pool make its connections so."""
    pool._build = build


def take(pool: Any) -> Any:
    return pool._take()


def take_all(pool: Any) -> list[Any]:
    """Every connection that it may have."""
    return [take(pool) for _ in range(pool._limit)]


def take_a_new_one(pool: Any) -> Any:
    return pool._another()


def socket_in(connection: Any) -> Any:
    return connection._sock


# -- the embedded server


def kept_in(server: Any) -> Any:
    """The connections that an embedded server keeps open."""
    return server._kept


def directory_in(server: Any) -> str:
    directory: str = server._directory
    return directory


is_open, clients = embedded._open, supervisor._clients


# -- replicas


def confirm_within(api: Any, milliseconds: int) -> None:
    """How long replicas have to confirm, whatever time a call has."""
    store_in(api)._steps.wait = milliseconds
