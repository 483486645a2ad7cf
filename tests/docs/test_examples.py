"""Examples that are neither Python nor settings: what somebody types, and texts for other programs.
Each is claimed here by the test that checks it; what no test can run is listed with the reason."""

import configparser
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import operator_page
import playwright
import pytest
import yaml
from apps import site
from gunicorn.config import Config as Gunicorn
from pages import PAGES, ROOT, blocks
from pyramid.config import Configurator
from pyramid.request import Request
from servers import Server, valkey
from waitress.adjustments import Adjustments

from pyramid_altsession.cli.parser import parse
from pyramid_altsession.events import SessionInvalidated, event_line

CONTRIBUTING = ROOT / "CONTRIBUTING.rst"


class Claim(NamedTuple):
    """The examples of a page that begin with these words."""

    page: str
    beginning: str


def text(page: str, beginning: str) -> str:
    (found,) = [b.text for b in blocks(PAGES[page], "text") if b.text.startswith(beginning)]
    return found


# -- what somebody types

ELSEWHERE = {
    r"(\.venv/bin/)?pserve |PYTHONPATH=\. |curl |\.venv/bin/python app\.py|mkdir counter && cd": (
        "test_quickstart runs it"
    ),
    r"shtab ": "test_completion runs it",
    r"\.venv/bin/python shop\.py": "test_tutorial_needs_nothing_else runs the file",
    r"python3 -m venv \.venv": "of Python itself",
    r"sudo apt-get install wrk": "changes the computer",
}
"""Commands that are checked by another test, or cannot be."""


def typed() -> list[tuple[str, str]]:
    """Every command of every page, with its page."""
    pages = {**PAGES, "CONTRIBUTING.rst": CONTRIBUTING}
    return [
        (name, command)
        for name, path in pages.items()
        for block in blocks(path, "console")
        for command in re.findall(r"^\$ (.*)$", block.text, re.MULTILINE)
    ]


def extras() -> set[str]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return set(parser["options.extras_require"])


def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check(command: str) -> None:
    """A command names what exists, with options that it takes."""
    words = shlex.split(command)
    program = words[0].removeprefix(".venv/bin/")
    match program:
        case "make":
            assert set(words[1:]) <= targets()
        case "altsession":
            parse(words[1:])
        case "gunicorn":
            Gunicorn().parser().parse_args(words[1:])
        case "uvicorn":
            module, name = words[1].split(":")
            page = PAGES["asyncio.rst"].read_text()
            assert f"``{module}.py``" in page
            assert f"\n   {name} = " in page
            assert words[2:] == ["--port", "8001"]
        case "pytest":
            found = [path.read_text() for path in ROOT.glob("tests/*/*.py")]
            names = {path.stem for path in ROOT.glob("tests/*/*.py")}
            name = words[words.index("-k") + 1]
            assert name in names or any(f"def {name}" in each for each in found)
        case "pip":
            assert words[1] == "install"
            wanted = re.findall(r"pyramid_altsession\[(\w+)\]", command)
            assert set(wanted) <= extras()
            others = {word for word in words[2:] if not word.startswith(("-", "pyramid_alt", "."))}
            known = {"waitress", "gunicorn", "plaster-yaml", "shtab", "starlette", "uvicorn"}
            assert others <= known
        case "python":
            help = [sys.executable, words[1], "--help"]
            told = subprocess.run(help, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            assert [word for word in words[2:] if word.startswith("-") and word not in told] == []
        case _:
            raise AssertionError(f"no test knows {command!r}")


@pytest.mark.slow
@pytest.mark.parametrize(("page", "command"), typed())
def test_a_command(page: str, command: str) -> None:
    """Programs, targets, extras, files and options that a page names exist."""
    if not any(re.match(pattern, command) for pattern in ELSEWHERE):
        check(command)


@pytest.mark.parametrize("command", ["make unheard-of", "altsession a.ini lst", "rm -rf /"])
def test_a_wrong_command_is_noticed(command: str) -> None:
    """A target, a command or a program that is not there."""
    with pytest.raises((AssertionError, SystemExit)):
        check(command)


# -- texts

WSGI, UNIT, COMPOSE = "from pyramid.paster", "[Unit]", "services:"
UWSGI, GEVENT, RETRY, FOLLOW = "[uwsgi]", "gevent = 100", "let answer", "function follow"
HEALTH, EVENT, TIMING, RACE = '{"status"', '{"time"', "Server-Timing:", "RaceFound:"

TEXTS: dict[Claim, str] = {
    Claim("howto.rst", RETRY): "test_retry_of_a_script",
    Claim("asyncio.rst", FOLLOW): "test_socket_of_a_page",
    Claim("howto.rst", UWSGI): "test_uwsgi_options",
    Claim("howto.rst", GEVENT): "test_uwsgi_options",
    Claim("howto.rst", WSGI): "test_file_for_mod_wsgi",
    Claim("howto.rst", UNIT): "test_unit_of_systemd",
    Claim("howto.rst", COMPOSE): "test_containers",
    Claim("testing.rst", RACE): "test_race_on_the_page",
    Claim("testing.rst", TIMING): "test_header_on_the_page",
    Claim("operations.rst", HEALTH): "test_health_on_the_page",
    Claim("operator.rst", EVENT): "test_event_on_the_page",
    # in test_docs
    Claim("operations.rst", "maxmemory "): "test_advised_settings_of_the_server",
    Claim("operations.rst", "redis-cli ACL"): "test_access_is_the_least",
    Claim("operations.rst", "> HGET"): "test_session_by_hand",
    Claim("quickstart.rst", "altsession settings:"): "test_quickstart_mistake",
}
NOT_RUN = {
    Claim("howto.rst", "WSGIDaemonProcess"): "Apache with mod_wsgi does not come as a package",
    Claim("howto.rst", "location / {"): "nginx does not come as a package",
}
"""Examples that are only read."""


def test_every_text_is_claimed() -> None:
    """No example hides: a test checks it, or it is listed as one that is only read; and what is
    claimed exists. Outputs of the operator's tool are test_page's."""
    outputs = set(operator_page.blocks(operator_page.PAGE.read_text()).values())
    claimed = dict.fromkeys([*TEXTS, *NOT_RUN], 0)
    for name, path in PAGES.items():
        for block in blocks(path, "text"):
            if name == "operator.rst" and any(block.text.split() == o.split() for o in outputs):
                continue
            (claim,) = [c for c in claimed if c.page == name and block.text.startswith(c.beginning)]
            claimed[claim] += 1
    assert set(claimed.values()) == {1}
    tests = "".join(path.read_text() for path in ROOT.glob("tests/docs/*.py"))
    assert [test for test in TEXTS.values() if f"def {test}(" not in tests] == []


def in_node(code: str) -> Any:
    """What a script prints, as JSON. Playwright brings the Node.js that it speaks to browsers
    with."""
    node = Path(playwright.__file__).parent / "driver" / "node"
    ran = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


@pytest.mark.process
def test_socket_of_a_page() -> None:
    """It shows what arrives, connects again after 1013, and ends after 1008."""
    script = """
        const sockets = [], shown = [], waits = [];
        const location = {hostname: "localhost"};
        const setTimeout = (again, ms) => { waits.push(ms); again(); };
        class WebSocket { constructor(url) { this.url = url; sockets.push(this); } }
        %s
        follow((cart) => shown.push(cart), () => shown.push("ended"));
        sockets[0].onmessage({data: '["tea"]'});
        sockets[0].onclose({code: 1013});
        sockets[1].onclose({code: 1008});
        console.log(JSON.stringify([sockets.map((each) => each.url), shown, waits]));
    """
    url = "ws://localhost:8001/live"
    told = in_node(script % text("asyncio.rst", FOLLOW))
    assert told == [[url, url], [["tea"], "ended"], [2000]]


@pytest.mark.process
def test_retry_of_a_script() -> None:
    """The script asks once more after a 409, and not after another answer."""
    script = """
        async function visit(statuses) {
            const url = "/", options = {};
            const fetch = async (...given) => {
                if (given[0] !== url || given[1] !== options) throw given;
                return {status: statuses.shift()};
            };
            %s
            return [answer.status, statuses.length];
        }
        (async () => console.log(JSON.stringify(
            [await visit([200, 1]), await visit([409, 200, 1]), await visit([409, 409, 1])])))();
    """
    assert in_node(script % text("howto.rst", RETRY)) == [[200, 1], [200, 1], [409, 1]]


@pytest.mark.process
def test_uwsgi_options() -> None:
    """uWSGI knows each of them."""
    whole = text("howto.rst", UWSGI) + text("howto.rst", GEVENT)
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(whole)
    uwsgi = Path(sys.executable).with_name("pyuwsgi")
    command = [uwsgi] if uwsgi.exists() else [sys.executable, "-c", "import pyuwsgi; pyuwsgi.run()"]
    told = subprocess.run(
        [*command, "--help"], capture_output=True, text=True, check=False, timeout=120
    ).stdout
    known = set(re.findall(r"--([\w-]+)", told))
    assert "ini-paste" in known
    assert set(parser["uwsgi"]) - known == set()


def test_file_for_mod_wsgi(tmp_path: Path) -> None:
    """It makes the application of the .ini file."""
    folder = str(tmp_path)
    (tmp_path / "production.ini").write_text(
        "[app:main]\nuse = egg:pyramid_altsession#demo\naltsession.redis.url = memory://\n"
        "altsession.sync.enabled = true\n"
    )
    names: dict[str, Any] = {}
    exec(text("howto.rst", WSGI).replace("/srv/shop", folder), names)
    answer = Request.blank("/").get_response(names["application"])
    assert answer.status_int == 200
    named = text("howto.rst", "WSGIDaemonProcess")
    assert "/srv/shop/app.wsgi" in named


def test_unit_of_systemd() -> None:
    """It is a unit's syntax, and starts what the other pages start; the page names the variables
    of its environment as the YAML example does."""
    parser = configparser.ConfigParser(interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text("howto.rst", UNIT))
    assert list(parser) == ["DEFAULT", "Unit", "Service", "Install"]
    assert parser["Service"]["ExecStart"].endswith("/.venv/bin/pserve production.ini")
    page = PAGES["howto.rst"].read_text()
    assert {"REDIS_URL", "SESSION_SECRET"} == set(re.findall(r"``(\w+)=…``", page))


def test_containers() -> None:
    """The server starts with the options of the example, and the application gets the variables
    that its settings name."""
    services = yaml.safe_load(text("howto.rst", COMPOSE))["services"]
    server = valkey(*shlex.split(services["sessions"]["command"])[1:])
    policy = server.client.config_get("maxmemory-policy")
    server.stop()
    assert policy == {"maxmemory-policy": "noeviction"}
    settings = [b.text for b in blocks(PAGES["howto.rst"], "yaml") if "${REDIS_URL}" in b.text]
    assert set(re.findall(r"\$\{(\w+)\}", settings[0])) == set(services["shop"]["environment"])


@pytest.mark.parametrize("page", ["howto.rst", "quickstart.rst"])
def test_settings_of_waitress(page: str) -> None:
    """waitress knows each of them."""
    sections = []
    for block in blocks(PAGES[page], "ini"):
        parser = configparser.ConfigParser(defaults={"here": "/here"})
        parser.read_string(block.text)
        if parser.has_section("server:main"):
            section = dict(parser["server:main"])
            assert section.pop("use") == "egg:waitress#main"
            section.pop("here")
            sections.append(Adjustments(**section))
    assert sections


def test_race_on_the_page() -> None:
    """The message is the one that the hidden example asserts of a real race."""
    lines = text("testing.rst", RACE).splitlines()
    hidden = [b.text for b in blocks(PAGES["testing.rst"], "checked") if "RaceFound" in b.text]
    assert lines[0] == "RaceFound: AssertionError: ..."
    assert [line for line in lines[1:] if line not in hidden[0]] == []


def counted(request: Request) -> dict[str, Any]:
    request.altsession.set("cart", [])
    return {"cart": request.altsession.get("cart", fresh=True)}


def test_header_on_the_page(server: Server) -> None:
    """It is the one of an answer, but for the numbers."""
    shop = site(server.url, {"cart": counted}, settings={"altsession.server_timing": True})
    shop.get("/cart")
    header = f"Server-Timing: {shop.get('/cart').headers['Server-Timing']}\n"
    number = re.compile(r"dur=\d+\.\d{3}")
    assert number.sub("", text("testing.rst", TIMING)) == number.sub("", header)


def test_health_on_the_page(server: Server) -> None:
    """It has the keys of a real answer."""

    def configure(config: Configurator) -> None:
        config.add_altsession_health_view("/health")

    answer = site(server.url, {}, configure=configure).get("/health").json
    assert list(json.loads(text("operations.rst", HEALTH))) == list(answer)


def test_event_on_the_page() -> None:
    """It has the keys of an event in the log, in one line there."""
    shown = json.loads(text("operator.rst", EVENT))
    event = SessionInvalidated(shown["session"], None, shown["user"], shown["reason"])
    real = json.loads(event_line(shown["event"], event, None))
    assert list(shown) == list(real)
    varying = {"time": None, "address": None}
    assert shown | varying == real | varying
