"""A session that is watched while the server that tells of it is replaced by another one."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import pytest
from topologies import Cluster, Sentinels, until
from watches import WatchedAPI, watching

from pyramid_altsession import StoreUnavailable
from pyramid_altsession.aio import Change

SHORT = {"redis.timeout": 1, "redis.connect_timeout": 1}


async def persistently(act: Callable[[], Awaitable[object]]) -> None:
    """Until the server that does it is found."""
    async with asyncio.timeout(120):
        while True:
            with suppress(StoreUnavailable):
                await act()
                return
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    found = Sentinels()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster()
    yield found
    found.stop()


def whole(servers: Sentinels | Cluster) -> None:
    """Bring back what was killed."""
    for node in servers.nodes:
        if node.process is None:
            node.start()
    servers.settle()


async def goes_on(api: WatchedAPI, replace: Callable[[str], None]) -> None:
    """A watch says that it may have missed something, and hears the new server."""
    session = await api.create({"a": 1})
    await session.login("ann")
    id = str(session.id)
    async with watching(api, id, keys=True) as watch:
        await asyncio.to_thread(replace, f"sess:{id}")
        assert await watch.next() == Change("changed", id, None)
        holder = api.attach(id, "ann")
        await persistently(lambda: holder.set("n", 1))
        while (await watch.next()).keys != {"n"}:  # type: ignore[union-attr]
            pass
        await persistently(lambda: api.invalidate_id(id))
        kinds = [change.kind for change in await watch.rest()]
        assert kinds[-1] == "ended"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ordered", "killed", "stopped"])
def test_sentinels_name_another_primary(sentinels: Sentinels, way: str) -> None:
    """In whatever way the old one goes."""

    def replace(key: str) -> None:
        old = sentinels.current
        until(lambda: sentinels.client.wait(1, 100) == 1)
        if way == "ordered":
            sentinels.failover()
            return
        (old.kill if way == "killed" else old.pause)()
        other = next(node for node in sentinels.nodes if node is not old)
        until(lambda: other.client.info("replication")["role"] == "master")
        if way == "stopped":
            old.kill()

    async def act() -> None:
        async with WatchedAPI(sentinels.url, **SHORT) as api:
            await goes_on(api, replace)

    whole(sentinels)
    asyncio.run(act())


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ordered", "killed"])
def test_a_replica_takes_over_in_a_cluster(cluster: Cluster, way: str) -> None:
    """The slot of the session gets another node."""

    def replace(key: str) -> None:
        old = cluster.primary_of(key)
        slots = range(3)
        place = next(n for n in slots if old in (cluster.nodes[n], cluster.nodes[n + 3]))
        other = next(node for node in cluster.nodes[place::3] if node is not old)
        until(lambda: old.client.wait(1, 100) == 1)
        if way == "killed":
            old.kill()
        else:
            until(lambda: other.client.execute_command("CLUSTER", "FAILOVER"))
        until(lambda: other.client.info("replication")["role"] == "master")
        cluster.settle()

    async def act() -> None:
        async with WatchedAPI(cluster.url, **SHORT) as api:
            await goes_on(api, replace)

    whole(cluster)
    asyncio.run(act())
