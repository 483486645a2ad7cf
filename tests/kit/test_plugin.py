"""The fixtures, in a pytest run of an application's own."""

import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = 'pytest_plugins = ["pytest_altsession"]\n'
CONFTEST = f"""
{PLUGIN}
import pytest
from pyramid.config import Configurator

def visits(request):
    return {{"visits": request.altsession.increment("visits")}}

@pytest.fixture
def altsession_app(altsession_settings):
    with Configurator(settings=altsession_settings) as config:
        config.include("pyramid_altsession")
        config.add_route("visits", "/")
        config.add_view(visits, route_name="visits", renderer="json")
        app = config.make_wsgi_app()
    yield app
    app.registry.getUtility(__import__("pyramid_altsession").ISessionAPI).close()
"""
IN_MEMORY = """
def test_round_trips(altsession_browser, altsession_round_trips):
    with altsession_round_trips(max=1) as sent:
        assert altsession_browser.get("/").json == {"visits": 1}
    assert len(sent) == 1

def test_clock(altsession_browser, altsession_clock):
    altsession_browser.get("/")
    altsession_clock.advance(3600)
    assert altsession_browser.get("/").json == {"visits": 1}
"""
ON_A_SERVER = """
import pytest
from pyramid_altsession import ISessionAPI

@pytest.fixture
def altsession_settings(altsession_server):
    return {"altsession.redis.url": altsession_server, "altsession.redis.timeout": "30"}

@pytest.mark.parametrize("time", [1, 2])
def test_empty(altsession_app, altsession_browser, time):
    api = altsession_app.registry.getUtility(ISessionAPI)
    assert list(api.scan()) == []
    altsession_browser.get("/")
    assert len(list(api.scan())) == 1
"""
WITHOUT_AN_APP = """
def test_browser(altsession_browser):
    pass
"""
LIGHT = """
import sys
assert not [name for name in sys.modules if name.startswith(("pyramid", "redis", "webtest"))]

def test_nothing():
    pass
"""


def run(folder: Path, **files: str) -> str:
    """What pytest says of these files."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "--rootdir", str(folder), str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


@pytest.mark.process
def test_fixtures(tmp_path: Path) -> None:
    """With a fixture for the application, the others serve it, in memory and on a server."""
    said = run(tmp_path, conftest=CONFTEST, test_memory=IN_MEMORY, test_server=ON_A_SERVER)
    assert "4 passed" in said, said


@pytest.mark.process
def test_without_an_application(tmp_path: Path) -> None:
    """Without one, the message says what to write. And the plugin has imported nothing heavy before
    a fixture is used."""
    said = run(tmp_path, conftest=PLUGIN, test_light=LIGHT, test_without=WITHOUT_AN_APP)
    assert "1 passed, 1 error" in said, said
    assert "wanted a fixture altsession_app in your conftest.py" in said
