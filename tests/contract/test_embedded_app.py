"""``embedded://`` under real applications: pserve, its reload, gunicorn's workers, scripts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from servers import free_port
from workers import eventually

import pyramid_altsession

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

APP = """
import functools
import os

from pyramid.config import Configurator
from pyramid_altsession import ISessionAPI
from pyramid_altsession.stores.redis import store
from pyramid_altsession.stores.embedded import EmbeddedServer

if "GRACE" in os.environ:
    store.EmbeddedServer = functools.partial(EmbeddedServer, grace=float(os.environ["GRACE"]))

def visit(request):
    return [os.getpid(), request.altsession.increment("visits")]

def pid(request):
    return os.getpid()

def main(global_config=None, **settings):
    with Configurator(settings=settings) as config:
        config.include("pyramid_altsession")
        config.add_route("visit", "/")
        config.add_view(visit, route_name="visit", renderer="json")
        config.add_route("pid", "/pid")
        config.add_view(pid, route_name="pid", renderer="json")
        app = config.make_wsgi_app()
    if "USED_BEFORE_THE_FORK" in os.environ:
        app.registry.getUtility(ISessionAPI).check()
    return app
"""

INI = """
[app:main]
use = call:app:main
altsession.redis.url = embedded://
altsession.redis.timeout = 30
altsession.session.secure = false

[server:main]
use = egg:waitress#main
listen = 127.0.0.1:{port}
"""

SCRIPT = """
import sys
from pyramid.paster import bootstrap
from pyramid_altsession import ISessionAPI

with bootstrap(sys.argv[1]) as env:
    print(env["registry"].getUtility(ISessionAPI).open(sys.argv[2]).get("visits"))
"""

PSERVE = ["pserve", "development.ini"]
GUNICORN = [
    "gunicorn",
    "--paste",
    "development.ini",
    "--workers",
    "2",
    "--bind",
    "127.0.0.1:{port}",
]


def processes(folder: Path, having: str = "") -> list[int]:
    """Supervisors and servers in the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            if str(folder) in command and "valkey-server" in command and having in command:
                found.append(int(entry.name))
    return found


class Site:
    """The application in a folder of its own, and one visitor with a cookie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = folder / "run"
        self.runtime.mkdir(mode=0o700)
        self.log = folder / "log"
        self.port = free_port()
        self.cookie = ""
        (folder / "app.py").write_text(APP)
        (folder / "script.py").write_text(SCRIPT)
        (folder / "development.ini").write_text(INI.format(port=self.port))

    def environment(self, **more: str) -> dict[str, str]:
        package = Path(pyramid_altsession.__file__).parents[1]
        return {
            **os.environ,
            "PYTHONPATH": f"{self.folder}:{package}",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "HOME": str(self.folder),
            "GRACE": "120",  # seconds: a busy machine takes its time to start the next application
            **more,
        }

    @contextmanager
    def served(self, command: list[str], **more: str) -> Iterator["subprocess.Popen[bytes]"]:
        """The site, until it answers; its whole process group is killed in the end."""
        tool = Path(sys.executable).with_name(command[0])
        with self.log.open("ab") as log:
            server = subprocess.Popen(
                [sys.executable, str(tool), *[word.format(port=self.port) for word in command[1:]]],
                cwd=self.folder,
                env=self.environment(**more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            assert eventually(lambda: server.poll() is not None or self.pid())
            assert server.poll() is None, self.log.read_text()
            yield server
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    def visit(self) -> tuple[int, int]:
        """The process that served the visit, and the number of the visit."""
        pid, number = self.get("/")
        return pid, number

    def pid(self) -> int | None:
        """The process that answers, without a session; None when none does."""
        with suppress(OSError):
            return int(self.get("/pid"))
        return None

    def get(self, path: str) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path, headers={"Cookie": self.cookie})
            response = connection.getresponse()
            new = response.headers["Set-Cookie"]
            self.cookie = self.cookie if new is None else new.partition(";")[0]
            return json.loads(response.read())
        finally:
            connection.close()

    def directories(self) -> list[str]:
        """Where embedded servers are."""
        return [name for name in os.listdir(self.runtime) if name.startswith("altsession-")]

    def touched(self) -> bool:
        """The application's file counts as changed. (``--reload`` notices what changes after it
        has looked at a file for the first time, and waits while it goes on changing.)"""
        time.sleep(0.25)
        (self.folder / "app.py").touch()
        return True

    def ask_script(self, cwd: Path) -> str:
        """What a script that ``bootstrap`` gave the application finds in the visitor's session."""
        command = [sys.executable, str(self.folder / "script.py")]
        done = subprocess.run(
            [*command, str(self.folder / "development.ini"), self.cookie.partition("=")[2]],
            cwd=cwd,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.fixture
def site() -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="app "))  # a space has to work
    yield Site(folder)
    shutil.rmtree(folder)  # a server whose socket is gone ends
    assert eventually(lambda: not processes(folder))


def test_restart_of_pserve_keeps_the_session(site: Site) -> None:
    """A session outlives pserve that ends, and is there for the one that is started next."""
    with site.served(PSERVE) as server:
        assert [site.visit()[1] for _ in range(2)] == [1, 2]
        server.terminate()
        server.wait()
    with site.served(PSERVE):
        assert site.visit()[1] == 3
    assert len(processes(site.folder, "supervisor.py")) == 1


def test_reload_of_pserve_keeps_the_session(site: Site) -> None:
    """``pserve --reload``: a changed file gives another process, and the session is still there."""
    with site.served([*PSERVE, "--reload"]):
        first, number = site.visit()
        assert eventually(lambda: site.touched() and "reloading" in site.log.read_text())
        second = eventually(lambda: (pid := site.pid()) not in (None, first) and pid)
        assert second
        assert (number, site.visit()) == (1, (second, 2))
        assert len(processes(site.folder, "supervisor.py")) == 1


@pytest.mark.parametrize(
    ("options", "more"),
    [([], {}), (["--preload"], {}), (["--preload"], {"USED_BEFORE_THE_FORK": "1"})],
    ids=["workers", "preload", "preload and used before the fork"],
)
def test_workers_of_gunicorn_see_one_session(
    site: Site, options: list[str], more: dict[str, str]
) -> None:
    """Two workers, the application loaded in each or before the fork, count one visitor's visits
    without a gap."""
    workers, numbers = set(), []

    def both() -> bool:
        worker, number = site.visit()
        workers.add(worker)
        numbers.append(number)
        return len(workers) == 2

    with site.served([*GUNICORN, *options], **more) as master:
        assert eventually(both)
        site.visit()
        assert numbers == list(range(1, len(numbers) + 1))
        assert master.pid not in workers
        assert len(processes(site.folder, "supervisor.py")) == 1


def test_script_joins_the_application_of_its_folder(site: Site, tmp_path: Path) -> None:
    """``bootstrap`` in the application's folder finds the session; one that runs elsewhere has a
    server of its own, unless the url names the place."""
    with site.served(PSERVE):
        site.visit()
        assert site.ask_script(site.folder) == "1"
        assert "SessionGone" in site.ask_script(tmp_path)
    ini = site.folder / "development.ini"
    ini.write_text(ini.read_text().replace("embedded://", "embedded://%(here)s/run/sessions"))
    with site.served(PSERVE):
        site.cookie = ""
        site.visit()
        assert site.ask_script(tmp_path) == "1"


@pytest.mark.parametrize(
    "command",
    [[*PSERVE, "--reload"], [*GUNICORN, "--preload"]],
    ids=["pserve --reload", "gunicorn --preload"],
)
def test_nothing_is_left_of_killed_applications(site: Site, command: list[str]) -> None:
    """After SIGKILL of every process of the application neither a process nor the directory stays
    for longer than the grace."""
    with site.served(command, GRACE="0.5", USED_BEFORE_THE_FORK="1") as server:
        site.visit()
        assert len(processes(site.folder)) == 2
        assert len(site.directories()) == 1
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        assert eventually(lambda: not processes(site.folder) and not site.directories())
    assert site.pid() is None
