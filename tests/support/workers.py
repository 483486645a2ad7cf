"""Processes and threads for the tests: let go together, joined or killed within a deadline."""

import contextlib
import ctypes
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from inside import idle_in, lease_in, store_in, take_all
from servers import SUPPORT, Server

from pyramid_altsession.api import OpenSession, SessionAPI
from pyramid_altsession.stores.redis.pool import ConnectionPool
from pyramid_altsession.stores.redis.wire import pack_command

CLIENT_ID = pack_command((b"CLIENT", b"ID"))
CLIENT_LIST = pack_command((b"CLIENT", b"LIST"))
Known = tuple[str, str, str]
"""Token, key, value."""
LIMIT = 4
"""Connections that a storm may open."""
FORK = multiprocessing.get_context("fork")


def api_at(url: str, **settings: object) -> SessionAPI:
    """The utility at a server; settings are named ``redis__timeout=…``. Where a test is not about
    time-outs a busy machine brings none about."""
    patient = {"redis.timeout": 30, "redis.connect_timeout": 30}
    named = {name.replace("__", "."): value for name, value in settings.items()}
    return SessionAPI.from_settings({"redis.url": url, **patient, **named})


def url_of(server: Server, way: str) -> str:
    return server.url if way == "unix" else server.tcp_url


def pool_of(api: SessionAPI) -> ConnectionPool:
    return lease_in(store_in(api))


def token_of(session: OpenSession) -> str:
    token = session.token
    assert token is not None
    return token


def eventually(holds: Callable[[], Any], *, seconds: float = 300.0) -> Any:
    """What the condition gives as soon as it holds; false: not within the deadline. It is asked
    often at first, and then every 20 ms."""
    deadline, pause = time.monotonic() + seconds, 0.001
    while not (found := holds()):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(1.3 * pause, 0.02)
    return found


def in_threads(count: int, function: Callable[[int], Any]) -> list[Any]:
    """``function(number)`` in so many threads, let go at one moment; their results, in order."""
    gate = threading.Barrier(count)

    def run(number: int) -> Any:
        gate.wait(120)
        return function(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def in_processes(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], *, seconds: float = 300.0
) -> list[Any]:
    """``function(*each)`` in a process of its own for each; their results, in order.

    What a worker raises fails here; no worker outlives the call.
    """
    with processes(function, arguments) as workers:
        deadline = time.monotonic() + seconds
        return [worker.result(deadline - time.monotonic()) for worker in workers]


def in_c_fork(work: Callable[[], object]) -> int:
    """Exit status of a child that C forked, without Python's hooks: 0 when the work gives true."""
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:  # pragma: no cover - the child
        status = 1
        try:
            sys.settrace(None)
            signal.alarm(10)
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Worker:
    """A forked process, and the pipe to it."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.pipe, theirs = FORK.Pipe()
        self.process = FORK.Process(target=_report, args=(theirs, function, arguments))
        self.process.start()
        theirs.close()

    def result(self, seconds: float) -> Any:
        assert self.pipe.poll(max(0.0, seconds)), "the worker does not come to an end"
        failure, result = self.pipe.recv()
        assert failure is None, failure
        return result

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()


def _report(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sys.settrace(None)  # a coverage tracer: nobody collects what it sees in a child
    threading.settrace(None)  # type: ignore[arg-type]
    try:
        result = None, function(*arguments)
    except BaseException:
        result = traceback.format_exc(), None
    with contextlib.suppress(BrokenPipeError):
        pipe.send(result)


@contextlib.contextmanager
def processes(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    try:
        for each in arguments:
            workers.append(Worker(function, each))
        yield workers
    finally:
        for worker in workers:
            worker.kill()


def in_fork(work: Callable[[], object]) -> int:
    """Exit status of a forked child: 0 when the work gives true, -SIGALRM when it hangs."""
    pid = os.fork()
    if pid == 0:  # pragma: no cover - the child
        status = 1
        try:
            signal.alarm(120)
            status = 0 if work() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def storm(kind: str, calls: int, *urls: str) -> list[tuple[Counter[str], Any]]:
    """What the script saw at each url, and the connections left, side by side."""
    script = SUPPORT / "storm.py"
    storms = [
        subprocess.Popen(
            [sys.executable, script, kind, url, str(LIMIT), str(calls)], stdout=subprocess.PIPE
        )
        for url in urls
    ]
    try:
        answers = [json.loads(storm.communicate(timeout=600)[0]) for storm in storms]
    finally:
        for storm in storms:
            storm.kill()
            storm.wait()
    return [(Counter(answer["seen"]), answer["places"]) for answer in answers]


def connections_of_ours(server: Server) -> int:
    """How many connections of leases the server has open."""
    return sum(not client["lib-name"] for client in server.client.client_list())


def places(api: SessionAPI) -> tuple[int, int]:
    """How many connections are to be had at once, and how many the server has open that came
    the same way (unix or TCP)."""
    pool = pool_of(api)
    taken = take_all(pool)
    ids = set()
    for connection in taken:
        idle_in(pool).append(connection)
        ids.update(pool.exchange(CLIENT_ID, 1))
        idle_in(pool).remove(connection)
    idle_in(pool).extend(taken)
    unix = "unix" in type(connection).__name__.lower()

    def open_there() -> int:
        (listed,) = pool.exchange(CLIENT_LIST, 1)
        ours = [line for line in listed.splitlines() if b" lib-name= " in line]
        return sum((b" flags=U " in line) == unix for line in ours)

    gc.collect()  # an exception in the middle of something leaves cycles
    eventually(lambda: open_there() <= len(ids))
    return len(ids), open_there()


def known_values(api: SessionAPI, *, sessions: int = 20, keys: int = 5) -> list[Known]:
    """Sessions whose every key holds a value that exists nowhere else."""
    held: list[Known] = []
    for number in range(sessions):
        values = {f"k{key}": f"value {key} of session {number}" for key in range(keys)}
        token = token_of(api.create(values))
        held += [(token, key, value) for key, value in values.items()]
    return held
