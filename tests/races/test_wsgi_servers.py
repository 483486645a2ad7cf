"""Visitors who come all at once to real WSGI servers: each keeps what is his own.

Whatever a server does with threads, greenlets, forks and late patching: no visitor sees another
one's value or user, no update is lost, and nothing answers 500.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from servers import Server, free_port
from workers import eventually

import pyramid_altsession

pytestmark = [
    pytest.mark.volume,
    pytest.mark.skipif(sys.platform != "linux", reason="servers that fork"),
]

VISITORS = 50
ROUNDS = 5
REQUESTS = 8  # of one visitor in a round
PATIENCE = 120.0  # seconds: that nothing hangs is all that is asked of time

APP = """
import os

from pyramid.config import Configurator
from pyramid_altsession import ISessionAPI

# Between its own steps a view asks the server for something else: others are served meanwhile.

def write(request):
    session = request.altsession
    session.set("name", request.params["name"])
    session.get("nothing", fresh=True)
    return session.get("name", fresh=True)

def read(request):
    session = request.altsession
    name = session.get("name", fresh=True)
    session.get("nothing", fresh=True)
    return [name, session.userid(), session.get("count", fresh=True)]

def enter(request):
    session = request.altsession
    session.login(request.params["name"])
    session.get("nothing", fresh=True)
    return session.userid()

def count(request):
    session = request.altsession
    session.get("nothing", fresh=True)
    return session.increment("count")

def leave(request):
    session = request.altsession
    user = session.userid()
    session.get("nothing", fresh=True)
    session.logout()
    return user

def connection(request):
    pool = request.registry.getUtility(ISessionAPI).store._pool
    return [os.getpid(), *pool.exchange(b"*2\\r\\n$6\\r\\nCLIENT\\r\\n$2\\r\\nID\\r\\n", 1)]

def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_altsession")
        for view in (write, read, enter, count, leave, connection):
            config.add_route(view.__name__, "/" + view.__name__)
            config.add_view(view, route_name=view.__name__, renderer="json")
        app = config.make_wsgi_app()
    if "USED_BEFORE_THE_FORK" in os.environ:
        app.registry.getUtility(ISessionAPI).check()
    return app

def ready():
    return main(**{
        "altsession.redis.url": os.environ["URL"],
        "altsession.redis.timeout": "60",
        "altsession.session.secure": "false",
    })
"""

WSGI = "from app import ready; application = ready()\n"

INI = """
[app:main]
use = call:app:main
altsession.redis.url = {url}
altsession.redis.timeout = 60
altsession.session.secure = false

[server:main]
use = egg:waitress#main
listen = 127.0.0.1:{port}
threads = 8

[server:gevent]
use = egg:gunicorn#main
bind = 127.0.0.1:{port}
worker_class = gevent
workers = 2
timeout = 120
keepalive = 120
"""

CONFS = {
    "early.py": "from gevent import monkey; monkey.patch_all()\n",
    "late.py": "import app\n",
}

# --keep-alive also limits how long gevent's worker waits for the first request of a connection.
GUNICORN = [
    *("gunicorn", "wsgi", "--workers", "2", "--bind", "127.0.0.1:{port}"),
    *("--timeout", "120", "--keep-alive", "120"),
]
GEVENT = [*GUNICORN, "-k", "gevent"]
UWSGI = [
    *("pyuwsgi", "--http-socket", "127.0.0.1:{port}", "--wsgi-file", "wsgi.py", "--need-app"),
    *("--master", "--processes", "2", "--die-on-term", "--listen", "100", "--disable-logging"),
]


class Case(NamedTuple):
    command: list[str]
    used_before_the_fork: bool = False
    embedded: bool = False


CASES = {
    "waitress": Case(["pserve", "development.ini"]),
    "gunicorn sync": Case([*GUNICORN, "-k", "sync"]),
    "gunicorn sync, used before the fork": Case([*GUNICORN, "--preload"], True),
    "gunicorn gthread": Case([*GUNICORN, "-k", "gthread", "--threads", "8"]),
    "gunicorn gthread, preload": Case([*GUNICORN, "-k", "gthread", "--threads", "8", "--preload"]),
    "gunicorn gevent": Case(GEVENT),
    "gunicorn gevent, late": Case([*GEVENT, "--config", "late.py"]),
    "gunicorn gevent, preload": Case([*GEVENT, "--preload"]),
    "gunicorn gevent, preload, early": Case([*GEVENT, "--preload", "--config", "early.py"]),
    "gunicorn gevent, preload, used": Case([*GEVENT, "--preload"], True),
    "gunicorn gevent, preload, embedded": Case([*GEVENT, "--preload"], embedded=True),
    "pserve with gunicorn gevent": Case(["pserve", "development.ini", "--server-name", "gevent"]),
    "uwsgi": Case(UWSGI),
    "uwsgi, used before the fork": Case(UWSGI, True),
    "uwsgi threads": Case([*UWSGI, "--enable-threads", "--threads", "4"]),
    "uwsgi gevent": Case([*UWSGI, "--gevent", "100", "--gevent-monkey-patch"]),
    "waitress, embedded": Case(["pserve", "development.ini"], embedded=True),
}


@contextlib.contextmanager
def served(case: Case, url: str, app: str = APP) -> Iterator[int]:
    """The port of the application under this server. In the end the server is asked to end, and
    none of its processes is left."""
    folder = Path(tempfile.mkdtemp(prefix="wsgi-"))
    port = free_port()
    (folder / "run").mkdir(mode=0o700)
    for name, text in {"app.py": app, "wsgi.py": WSGI, **CONFS}.items():
        (folder / name).write_text(text)
    (folder / "development.ini").write_text(INI.format(port=port, url=url))
    words = [word.format(port=port) for word in case.command]
    package = os.environ.get("PYTHONPATH") or str(Path(pyramid_altsession.__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}:{package}",
        "XDG_RUNTIME_DIR": str(folder / "run"),
        "HOME": str(folder),
        "URL": url,
        **({"USED_BEFORE_THE_FORK": "1"} if case.used_before_the_fork else {}),
    }
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, str(Path(sys.executable).with_name(words[0])), *words[1:]],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_for(lambda: server.poll() is not None or asyncio.run(answers(port)))
        assert server.poll() is None, log.read_text()
        yield port
        server.send_signal(signal.SIGTERM)
        server.wait(PATIENCE)
        wait_for(lambda: not group_lives(server.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        shutil.rmtree(folder)


def wait_for(condition: Callable[[], object]) -> None:
    assert eventually(condition, seconds=PATIENCE), "still not so"


def group_lives(leader: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, 0)
        return True
    return False


async def answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        return (await ask(port, "/read", ""))[0] == 200
    return False


async def ask(port: int, path: str, cookie: str) -> tuple[int, str | None, bytes]:
    """Status, cookie that is set (empty: dropped; None: neither) and body of one answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = [f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        head += [f"Cookie: sid={cookie}"] if cookie else []
        writer.write("\r\n".join([*head, "", ""]).encode())
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if not answer:
        raise ConnectionResetError
    header, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = header.decode().split("\r\n")
    new = None
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() == "set-cookie":
            new = value.strip().removeprefix("sid=").partition(";")[0]
    return int(status.split()[1]), new, body


class Visitor:
    """One browser. What it finds that is not its own it notes."""

    def __init__(self, port: int, number: int, seen: Counter[str]) -> None:
        self.port = port
        self.number = number
        self.seen = seen
        self.cookie = ""

    async def get(self, path: str) -> Any:
        status, new, body = await ask(self.port, path, self.cookie)
        self.seen["requests"] += 1
        if status != 200:
            self.seen[f"status {status}"] += 1
            return None
        self.cookie = self.cookie if new is None else new
        return json.loads(body)

    def expect(self, kind: str, expected: Any, found: Any) -> None:
        if found != expected:
            self.seen[kind] += 1

    async def round(self, number: int) -> None:
        """Without a session, then with one, then signed in; two requests at once; signed out."""
        name, user = f"v{self.number}.{number}", f"u{self.number}.{number}"
        self.expect("foreign value", name, await self.get(f"/write?name={name}"))
        self.expect("foreign value", [name, None, None], await self.get("/read"))
        self.expect("foreign user", user, await self.get(f"/enter?name={user}"))
        sums = await asyncio.gather(self.get("/count"), self.get("/count"))
        self.expect("lost update", [1, 2], sorted(sums, key=str))
        self.expect("foreign value", [name, user, 2], await self.get("/read"))
        self.expect("foreign user", user, await self.get("/leave"))
        self.expect("foreign value", [None, None, None], await self.get("/read"))


async def crowd(port: int) -> Counter[str]:
    seen: Counter[str] = Counter()

    async def visit(visitor: Visitor) -> None:
        for number in range(ROUNDS):
            await visitor.round(number)

    await asyncio.gather(*[visit(Visitor(port, number, seen)) for number in range(VISITORS)])
    return seen


@pytest.mark.parametrize("name", CASES)
def test_crowd(server: Server, name: str) -> None:
    """2,000 overlapping requests of 50 visitors: each finds its own values and user, counts
    without a gap, and is never answered by a failure; the server ends and leaves no process."""
    case = CASES[name]
    with served(case, "embedded://" if case.embedded else server.url) as port:
        seen = asyncio.run(crowd(port))
    assert seen == {"requests": VISITORS * ROUNDS * REQUESTS}


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].used_before_the_fork])
def test_connections_after_a_fork(server: Server, name: str) -> None:
    """Workers that were forked after the session was used each have a connection of their own."""
    found: dict[int, int] = {}

    async def ask_both(port: int) -> bool:
        """Several at once, or one worker might answer them all."""
        found.update(await asyncio.gather(*[connection(port) for _ in range(8)]))
        return len(found) == 2

    with served(CASES[name], server.url) as port:
        wait_for(lambda: asyncio.run(ask_both(port)))
    assert len(set(found.values())) == 2


async def connection(port: int) -> tuple[int, int]:
    """The process that answers, and the number that its connection has on the server."""
    process, number = json.loads((await ask(port, "/connection", ""))[2])
    return process, number
