"""Threads and processes on one server: nothing is lost, halved or brought back."""

import json
import mmap
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pyramid.request import Request
from servers import SUPPORT, Server
from workers import FORK, Worker, api_at, in_processes, in_threads, processes, token_of

from pyramid_altsession.api import OpenSession, SessionAPI
from pyramid_altsession.config.table import SessionSettings
from pyramid_altsession.errors import SessionGone
from pyramid_altsession.session import AltSession

pytestmark = [
    pytest.mark.volume,
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


@pytest.fixture
def api(server: Server) -> Iterator[SessionAPI]:
    api = api_at(server.url, redis__timeout=10)
    yield api
    api.close()


# -- nothing is lost


def write_keys(api: SessionAPI, token: str, process: int, writers: int, keys: int) -> None:
    def write(writer: int) -> None:
        session = api.open(token)
        for key in range(keys):
            session.set(f"{process}.{writer}.{key}", [process, writer, key])

    in_threads(writers, write)


def test_two_hundred_writers_of_their_own_keys_lose_nothing(api: SessionAPI) -> None:
    """200 writers in 8 processes, 200 keys each, all in one session: 40,000 values."""
    token = token_of(api.create())
    in_processes(write_keys, [(api, token, process, 25, 200) for process in range(8)])
    assert api.open(token).all() == {
        f"{process}.{writer}.{key}": [process, writer, key]
        for process in range(8)
        for writer in range(25)
        for key in range(200)
    }


def test_a_thousand_increments_from_sixteen_threads_make_a_thousand(api: SessionAPI) -> None:
    """And every caller gets a sum of its own."""
    token = token_of(api.create({"n": 0}))
    with ThreadPoolExecutor(16) as pool:
        sums = list(pool.map(lambda _: api.open(token).increment("n"), range(1000)))
    assert sorted(sums) == list(range(1, 1001))
    assert api.open(token).get("n") == 1000


def test_of_64_that_pop_one_gets_the_value(api: SessionAPI) -> None:
    """In each of ten rounds; the others get the default."""
    token = token_of(api.create())
    for turn in range(10):
        api.open(token).set("ticket", turn)
        got = in_threads(64, lambda _: api.open(token).pop("ticket", "none"))
        assert sorted(got, key=str) == [turn] + ["none"] * 63


def test_of_64_that_compare_and_set_one_wins(api: SessionAPI) -> None:
    """In each of ten rounds, and what is stored is the winner's."""
    token = token_of(api.create({"seat": "free"}))
    for _ in range(10):
        before = api.open(token).get("seat")
        won = in_threads(
            64, lambda number, old=before: api.open(token).compare_and_set("seat", old, number)
        )
        assert won.count(True) == 1
        assert api.open(token).get("seat") == won.index(True)
        api.open(token).set("seat", "free")


def test_setdefault_of_64_gives_all_of_them_one_value(api: SessionAPI) -> None:
    """Whoever was first."""
    token = token_of(api.create())
    got = in_threads(64, lambda number: api.open(token).setdefault("owner", number))
    assert got == [api.open(token).get("owner")] * 64


def test_modify_from_many_threads_loses_nothing(api: SessionAPI) -> None:
    """8 threads append to one list, 25 times each."""
    token = token_of(api.create())

    def append(number: int) -> None:
        session = api.open(token)
        for turn in range(25):
            session.modify("list", lambda held, new=(number, turn): [*held, new], default=[])

    in_threads(8, append)
    assert sorted(api.open(token).get("list")) == [[n, t] for n in range(8) for t in range(25)]


# -- nothing is halved

PAGES = [f"page{number}" for number in range(5)]


def read_pages(api: SessionAPI, token: str, reads: int) -> list[int]:
    """How many reads were of several writes, and how many different writes were seen."""
    session = api.open(token)
    halves, seen = 0, set()
    for _ in range(reads):
        first, *others = session.mget(PAGES, fresh=True).values()
        halves += others != [first] * len(others)
        seen.add(first)
    return [halves, len(seen)]


def write_pages(api: SessionAPI, token: str) -> None:
    session = api.open(token)
    for number in range(10**9):
        session.mset(dict.fromkeys(PAGES, number))
        time.sleep(1e-4)  # those who read are what is waited for


def test_nobody_sees_half_an_mset(api: SessionAPI) -> None:
    """100,000 reads of five keys, while somebody writes all five again and again."""
    token = token_of(api.create(dict.fromkeys(PAGES, 0)))
    with processes(write_pages, [(api, token)]):
        results = in_processes(read_pages, [(api, token, 50_000)] * 2)
    assert [halves for halves, _ in results] == [0, 0]
    assert min(seen for _, seen in results) > 1000, "nobody wrote meanwhile"


# -- nothing is brought back


def from_token(api: SessionAPI, token: str) -> AltSession:
    return api.open(token)


def from_cookie(api: SessionAPI, token: str) -> AltSession:
    return api.session(Request.blank("/", headers={"Cookie": f"sid={token}"}))


def write_until_gone(
    api: SessionAPI, opened: Callable[[SessionAPI, str], AltSession], commands: Any, number: int
) -> None:
    """For each token that comes: write, each time as another request, until it is gone."""
    for token in iter(commands.recv, None):
        done = 0
        try:
            while True:
                session = opened(api, token)
                session.mset({f"writer{number}": done, "both": done})
                done += 1
        except SessionGone:
            commands.send(done)


def left_of(server: Server, session: OpenSession) -> list[bytes]:
    """What there is of the application's in the session's hash."""
    return [name for name in server.client.hkeys(f"sess:{session.id}") if name[:1] != b"@"]


@pytest.mark.parametrize(
    ("opened", "gone_window", "tombstones"), [(from_cookie, 60, 600), (from_token, 0, 0)]
)
def test_no_write_brings_an_invalidated_session_back(
    server: Server,
    opened: Callable[[SessionAPI, str], AltSession],
    gone_window: int,
    tombstones: int,
) -> None:
    """600 sessions ended under three processes that write to them: nothing of the data is there
    when ``invalidate`` returns, nor when the last writer learned that it is gone; and nobody
    got a new session instead."""
    api = api_at(server.url, redis__timeout=10, session__gone_window=gone_window)
    rng = random.Random(1)
    pipes = [FORK.Pipe() for _ in range(3)]
    arguments = [(api, opened, theirs, number) for number, (_, theirs) in enumerate(pipes)]
    overtaken = 0
    with processes(write_until_gone, arguments):
        for _ in range(600):
            session = api.create({"held": "data"})
            for ours, _ in pipes:
                ours.send(session.token)
            time.sleep(rng.uniform(0, 2e-3))  # the ends come at any moment
            assert opened(api, str(session.token)).invalidate() is True
            assert left_of(server, session) == []
            for ours, _ in pipes:
                assert ours.poll(30)
                overtaken += ours.recv() > 0
            assert left_of(server, session) == []
    assert overtaken > 100, "nobody wrote meanwhile"
    assert server.client.dbsize() == tombstones
    api.close()


# -- nothing stays for ever

ASTRAY = """
local keys, astray = redis.call('KEYS', 'sess:*'), 0
for _, key in ipairs(keys) do
  local born = redis.call('HEXISTS', key, '@v') + redis.call('HEXISTS', key, '@x')
  if redis.call('PTTL', key) == -1 or born ~= 1 then
    astray = astray + 1
  end
end
return {#keys, astray}
"""

RANDOM_CALLS: list[Callable[[OpenSession, str, random.Random], object]] = [
    lambda session, key, rng: session.get(key, fresh=True),
    lambda session, key, rng: session.all(fresh=True),
    lambda session, key, rng: session.ttl(),
    lambda session, key, rng: session.set(key, 1),
    lambda session, key, rng: session.mset({key: 2, "b": "x" * rng.randrange(200)}),
    lambda session, key, rng: session.remove(key),
    lambda session, key, rng: session.remove(["a", "b", "c"]),
    lambda session, key, rng: session.pop(key),
    lambda session, key, rng: session.setdefault(key, 3),
    lambda session, key, rng: session.increment("n"),
    lambda session, key, rng: session.compare_and_set(key, 1, 4),
    lambda session, key, rng: session.touch(),
    lambda session, key, rng: session.renew(),
    lambda session, key, rng: rng.random() < 0.3 and session.invalidate(),
]


def call_at_random(api: SessionAPI, done: Any, number: int, seed: int) -> None:
    """Until killed. The sessions have several holders, of whom a renewal leaves one."""
    rng = random.Random(seed)
    sessions = [api.create() for _ in range(5)]
    while True:
        place = rng.randrange(len(sessions))
        try:
            rng.choice(RANDOM_CALLS)(sessions[place], rng.choice("abc"), rng)
            if rng.random() < 0.05 and (token := rng.choice(sessions).token):
                sessions[place] = api.open(token)
        except SessionGone:
            sessions[place] = api.create({"a": 1} if rng.random() < 0.5 else None)
        done[number] += 1


def test_after_random_calls_and_killed_workers_every_key_has_an_end(
    server: Server, api: SessionAPI
) -> None:
    """100,000 calls in four processes, of which one is killed every now and then: at no time
    is there a key without TTL, or a hash that is neither a session nor a tombstone."""
    rng = random.Random(1)
    done = memoryview(mmap.mmap(-1, 4 * 8)).cast("L")  # shared with the workers
    look = server.client.register_script(ASTRAY)
    killed = 0
    began = time.monotonic()
    workers = [Worker(call_at_random, (api, done, number, number)) for number in range(4)]
    try:
        while sum(done) < 100_000 or killed <= 10:
            assert time.monotonic() - began < 600
            time.sleep(rng.uniform(0, 0.3))
            victim = rng.randrange(4)
            assert not workers[victim].pipe.poll(), workers[victim].result(0)
            workers[victim].kill()
            killed += 1
            workers[victim] = Worker(call_at_random, (api, done, victim, 100 + killed))
            assert look()[1] == 0
    finally:
        for worker in workers:
            worker.kill()
    sessions, astray = look()
    assert astray == 0
    assert sessions > 100


# -- no clock but the server's


def test_a_clock_that_is_wrong_by_an_hour_changes_nothing(server: Server) -> None:
    """The application's clocks, both kinds, an hour ahead or behind: the same answers, the same
    times to live on the server, sessions that go on between such applications."""
    api = api_at(server.url)
    script = SUPPORT / "skewed.py"
    seen = []
    for hours in (0, 1, -1):
        shared = token_of(api.create({"from": "here"}))
        command = [sys.executable, script, str(hours), server.url, shared]
        answer = subprocess.run(command, capture_output=True, check=True, timeout=300)
        seen.append(json.loads(answer.stdout))
        left = server.client.pttl(f"sess:{shared.partition('.')[0]}")
        assert SessionSettings.tti - 30 < left / 1000 <= SessionSettings.tti
        assert api.open(shared).get("back") == "there"
        server.client.flushall()
    assert seen[0] == seen[1] == seen[2]
    assert seen[0]["errors"] == ["SessionGone"] * 4
    api.close()
