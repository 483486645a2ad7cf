"""The README and the pages of docs: every example runs, and what they name exists.

``.. checked`` is a comment of reST: nobody sees it, and it runs like an example. It sets up what
the examples around it need, and checks what they did.
"""

import configparser
import doctest
import gc
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import docutils.core
import plaster
import pytest
import yaml
from docutils import nodes
from pages import PAGES, ROOT, Block, blocks
from pyramid.exceptions import ConfigurationError
from servers import Server, free_port, valkey
from webtest import TestApp

from pyramid_altsession import SessionAPI, StoreUnavailable, TooManySessions
from pyramid_altsession.api import OpenSession
from pyramid_altsession.config.sources import ANCESTOR_NAMES, from_ini, read_settings
from pyramid_altsession.config.table import Settings, table
from pyramid_altsession.config.yamlfile import read_yaml

VARIABLES = {
    "REDIS_URL": "rediss://user:password@host/0",
    "SESSION_SECRET": "a secret of 16 characters".replace(" ", "-"),
}


def page_test(function: Callable[..., None]) -> Callable[..., None]:
    """Once for each page."""
    return pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))(function)


# -- all pages


@page_test
def test_examples_say_what_they_are(page: Path) -> None:
    """No example hides from these tests: each is a code-block of a language known here."""
    known = {"python", "pycon", "checked", "jinja", "ini", "yaml", "toml", "console", "text"}
    assert {block.language for block in blocks(page)} - known == set()
    others = (
        r"::\n\n +\S|\.\. (code|sourcecode|testcode|testsetup|doctest|literalinclude)::|^ *>>> "
    )
    shown = re.sub(r"\.\. (?:[\w-]+::.*|checked)\n(?: *\n| +.*\n)+", "", page.read_text())
    assert re.findall(others, shown, re.MULTILINE) == []


@pytest.mark.slow
@page_test
def test_python_examples(page: Path) -> None:
    """The Python of a page runs from top to bottom, and the tests in it pass; a template is there
    as ``template``."""
    names: dict[str, Any] = {"__name__": __name__}
    for block in blocks(page, "python", "pycon", "checked", "jinja"):
        if block.language == "pycon":
            talk(block, page, names)
        elif block.language == "jinja":
            names["template"] = block.text
        else:
            code = compile("\n" * block.line + block.text, str(page), "exec")
            exec(code, names)
            for name in [name for name in names if name.startswith("test_")]:
                names.pop(name)()
    names.clear()
    gc.collect()  # what was left open is noticed here


def talk(block: Block, page: Path, names: dict[str, Any]) -> None:
    """A dialogue with the interpreter gives what the page says."""
    dialogue = doctest.DocTestParser().get_doctest(block.text, {}, page.name, str(page), block.line)
    dialogue.globs = names
    out: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(
        dialogue, out=out.append, clear_globs=False
    )
    assert "".join(out) == ""


@page_test
def test_settings_that_are_named_exist(page: Path) -> None:
    """A page names no setting and no attribute of a session that there is not."""
    text = page.read_text()
    known = {name for name, _ in table()} | set(ANCESTOR_NAMES)
    named = set(re.findall(r"\baltsession\.((?:redis|session)\.\w+)", text))
    short = set(re.findall(r"``((?:redis|session)\.(?!py`|asyncio`)\w+)[`(]", text))
    attributes = {f"session.{name}" for name in dir(OpenSession)} - known
    assert (named | short) - known - attributes - {"session.ttl"} == set()


@page_test
def test_ini_and_yaml_examples(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of settings takes every .ini and every YAML of a page."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "altsession.yaml"
    file.write_text("")
    for block in blocks(page, "yaml"):
        if block.text.startswith("app:"):
            assert read_settings(app_yaml(block, tmp_path)) != Settings()
        else:
            file.write_text(block.text)
            assert read_yaml(str(file)).faults == ()
            assert read_settings({"config": str(file)}) != Settings()
    for block in blocks(page, "ini"):
        assert read_settings(ini(block, file)) is not None


def ini(block: Block, file: Path) -> dict[str, object]:
    """What the application finds in an .ini, its YAML file being this one."""
    parser = configparser.ConfigParser(defaults={"here": "/here"})
    parser.read_string(block.text)
    found = from_ini(parser["app:main"])
    if "config" in found:
        assert str(found["config"]).startswith("/here/")
        found["config"] = str(file)
    return found


def app_yaml(block: Block, folder: Path) -> dict[str, object]:
    """What the application finds in what ``pserve`` reads."""
    (folder / "app.yaml").write_text(block.text)
    (folder / "config").mkdir(exist_ok=True)
    (folder / "config" / "altsession.yaml").touch()
    return from_ini(plaster.get_loader(str(folder / "app.yaml")).get_settings("app"))


# -- README


def test_readme_is_valid_for_pypi() -> None:
    """The long description, README and CHANGES, is reST without a warning."""
    text = PAGES["README.rst"].read_text() + "\n" + (ROOT / "CHANGES.rst").read_text()
    docutils.core.publish_string(text, settings_overrides={"halt_level": 2})


def test_readme_example_is_short() -> None:
    """The first example has 8 lines at most."""
    first, _ = blocks(PAGES["README.rst"], "python")
    assert len([line for line in first.text.splitlines() if line]) <= 8


def test_readme_example_is_the_quickstart() -> None:
    """README and quickstart have the same application."""
    _, shown = blocks(PAGES["README.rst"], "python")
    (app,) = blocks(PAGES["quickstart.rst"], "python")
    assert shown.text == app.text


def test_readme_names_files_that_exist() -> None:
    """It links to no file, because PyPI would not find it; the pages that it names exist."""
    text = PAGES["README.rst"].read_text()
    assert re.findall(r"<(?!https://)[^>]+>`_", text) == []
    named = re.findall(r"``((?:docs/)?\w+\.rst)``", text)
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []


# -- pages as plain files, as a code host shows them


def empty_sections(text: str) -> list[str]:
    """The titles of the sections that hold nothing when docutils renders a text, which knows no
    directive of Sphinx."""
    silent = {"report_level": 5, "halt_level": 5}
    tree = docutils.core.publish_doctree(text, settings_overrides=silent)
    invisible = (nodes.title, nodes.comment, nodes.system_message, nodes.target)
    return [
        section[0].astext()
        for section in tree.findall(nodes.section)
        if all(isinstance(child, invisible) for child in section.children)
    ]


def test_empty_sections_are_found() -> None:
    """A title with nothing, a comment or a directive of Sphinx under it; but not one with text."""
    text = "A\n=\n\nB\n-\n\n.. checked\n\n   x = 1\n\nC\n-\n\n.. autoclass:: C\n\nD\n-\n\nWords.\n"
    assert empty_sections(text) == ["B", "C"]


@page_test
def test_no_section_is_empty_in_the_plain_file(page: Path) -> None:
    """Where Sphinx fills a page in, the page says how to build it."""
    text = page.read_text()
    if page == PAGES["contributing.rst"]:  # CONTRIBUTING.rst, which it includes, is complete
        return
    if re.search(r"^ *\.\. (auto\w+|altsession-settings|glossary|include)::", text, re.MULTILINE):
        assert "plain file" in text
        assert "``make docs``" in text
    else:
        assert empty_sections(text) == []


@page_test
def test_internal_links_lead_somewhere(page: Path) -> None:
    """Pages, labels and images that a page names exist."""
    text = page.read_text()
    pages = {path.stem for path in ROOT.glob("docs/*.rst")}
    assert set(re.findall(r":doc:`(?:[^`<]*<)?([^`>]+)>?`", text)) - pages == set()
    labels = {
        label
        for p in PAGES.values()
        for label in re.findall(r"^\.\. _([\w-]+):", p.read_text(), re.M)
    }
    assert set(re.findall(r":ref:`(?:[^`<]*<)?([^`>]+)>?`", text)) - labels == set()
    images = re.findall(r"\.\. (?:image|figure):: (\S+)", text)
    assert [image for image in images if not (page.parent / image).exists()] == []


# -- quickstart


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder; embedded servers stand in it and end with it."""
    path = Path(tempfile.mkdtemp(prefix="quick-"))  # short, as paths of sockets have to be
    runtime = path / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    yield path
    shutil.rmtree(path)


@contextmanager
def running(command: str, folder: Path, port: int) -> Iterator[None]:
    """A command of the page, until it is served on the port; then it is ended."""
    with open(folder / "log", "w+") as log:
        server = subprocess.Popen(
            ["sh", "-c", f"exec env {here(command)}"],
            cwd=folder,
            env=os.environ | {"HOME": str(folder)},
            stdout=log,
            stderr=log,
        )
        try:
            deadline = time.monotonic() + 60
            while not listening(port):
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
            yield
        finally:
            server.terminate()
            server.wait()


def here(command: str) -> str:
    """A command of the page with what is installed here."""
    command = command.replace(".venv/bin/", f"{shlex.quote(os.path.dirname(sys.executable))}/")
    return command.replace("PYTHONPATH=.", '"PYTHONPATH=.:$PYTHONPATH"')


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def dialogues(block: Block) -> list[tuple[str, str]]:
    """The commands of a console, each with the output that the page shows."""
    parts = re.split(r"^\$ (.*)\n", block.text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.process
def test_quickstart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All the ways to start the application serve what the page's curl commands show."""
    if shutil.which("curl") is None:
        assert not os.environ.get("CI"), "CI has to have curl"
        pytest.skip("no curl on PATH")
    page, port = PAGES["quickstart.rst"], free_port()
    told = [b._replace(text=b.text.replace("6543", str(port))) for b in blocks(page)]
    consoles = [dialogues(b) for b in told if b.language == "console"]
    typed = [command for dialogue in consoles for command, _ in dialogue]
    visits = [d for dialogue in consoles for d in dialogue if d[0].startswith("curl")]

    def save(name: str, language: str, beginning: str = "") -> None:
        (text,) = {b.text for b in told if b.language == language and b.text.startswith(beginning)}
        (folder / name).write_text(text)

    def answers_as_told(start: str) -> None:
        """With the cookies of the start before, as a reader has them."""
        (command,) = [command for command in typed if f"bin/{start}" in f"{command} "]
        with running(command, folder, port):
            assert [(visit, output(visit, folder)) for visit, _ in visits] == visits

    save("app.py", "python")
    answers_as_told("python app.py")
    (said,) = [out for dialogue in consoles for typed_in, out in dialogue if "app.py" in typed_in]
    assert said.strip() in (folder / "log").read_text().splitlines()
    first, second = [b.text for b in told if b.language == "ini"]
    for settings in (first, second):
        (folder / "development.ini").write_text(settings)
        save("altsession.yaml", "yaml", "redis:")
        answers_as_told("pserve development.ini")
    answers_as_told("gunicorn")

    save("pyproject.toml", "toml")
    save("app.yaml", "yaml", "app:")
    assert ".venv/bin/pip install plaster-yaml --editable ." in typed
    options = "--quiet --no-index --no-deps --no-build-isolation --target installed"
    output(here(f".venv/bin/python -m pip install {options} ."), folder)
    monkeypatch.setenv("PYTHONPATH", "installed", prepend=os.pathsep)
    answers_as_told("pserve app.yaml")


def output(command: str, folder: Path) -> str:
    done = subprocess.run(
        shlex.split(command), cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def test_quickstart_mistake(tmp_path: Path) -> None:
    """The message for a wrong setting is the one that the page shows."""
    config, _ = blocks(PAGES["quickstart.rst"], "yaml")
    (message,) = blocks(PAGES["quickstart.rst"], "text")
    file = tmp_path / "altsession.yaml"
    file.write_text(config.text.replace("tti: 1800", "tti: soon"))
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"config": str(file)})
    assert str(caught.value).replace(str(tmp_path), "/home/you/counter") + "\n" == message.text


# -- an application that exists


@pytest.mark.process
def test_application_that_exists(folder: Path) -> None:
    """What the page adds to an application in the layout of Pyramid's cookiecutter serves a visitor
    twice, in its own tests and with the settings for development."""
    page = PAGES["howto.rst"]
    main, testapp = [
        b.text
        for b in blocks(page, "python")
        if re.search(r"\(\"\.routes|def testapp\(app\)", b.text)
    ]
    develop, test = [b.text for b in blocks(page, "ini")[:2]]
    (folder / "shop").mkdir()
    (folder / "tests").mkdir()
    app = "use = call:shop:main\n"
    files = {
        "shop/__init__.py": main,
        "shop/routes.py": "def includeme(config):\n    config.add_route('home', '/')\n",
        "shop/views.py": (
            "from pyramid.view import view_config\n\n"
            "@view_config(route_name='home', renderer='string')\n"
            "def home(request):\n    return request.altsession.increment('visits')\n"
        ),
        "development.ini": develop + app,
        "testing.ini": test + app,
        "tests/conftest.py": testapp + "\nfrom pyramid.paster import get_app\n\n"
        "@pytest.fixture(params=['testing.ini', 'development.ini'])\n"
        "def app(request):\n    return get_app(request.param)\n",
        "tests/test_functional.py": (
            "def test_visits(testapp):\n    assert [testapp.get('/').text for _ in '12'] =="
            " ['1', '2']\n"
        ),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    with open(folder / "log", "w+") as log:  # no pipe, which the server would hold open
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            stdout=log,
            stderr=log,
            check=False,
        )
    assert "2 passed" in (folder / "log").read_text(), (folder / "log").read_text()


# -- tutorial


def test_tutorial_needs_nothing_else() -> None:
    """What the page shows makes an application, without what only these tests see."""
    names: dict[str, Any] = {"__name__": __name__}
    for block in blocks(PAGES["tutorial.rst"], "python"):
        exec(block.text, names)
    assert (
        TestApp(names["main"](**{"altsession.redis.url": "memory://"})).get("/").status_int == 200
    )


# -- diagrams


def test_diagrams_say_what_they_show() -> None:
    """Each is on a page, and has a title and a description for those who do not see it."""
    everything = "".join(path.read_text() for path in PAGES.values())
    shown = set(re.findall(r"images/([\w-]+\.(?:svg|png))", everything))
    assert shown == {path.name for path in ROOT.glob("docs/images/*")}
    for file in ROOT.glob("docs/images/*.svg"):
        root = ElementTree.parse(file).getroot()
        assert [bool(root.findtext(f"{{*}}{tag}")) for tag in ("title", "desc")] == [True, True]


# -- settings


def test_precedence_example(tmp_path: Path) -> None:
    """The .ini outweighs the YAML file, as the page says of its example."""
    page = PAGES["settings.rst"]
    (lines,) = [b for b in blocks(page, "ini") if "tti = 600" in b.text]
    (config,) = [b for b in blocks(page, "yaml") if "lifetime: 7200" in b.text]
    file = tmp_path / "altsession.yaml"
    file.write_text(config.text)
    session = read_settings(ini(lines, file)).session
    assert (session.tti, session.lifetime) == (600, 7200)


def test_examples_for_production_agree() -> None:
    """The YAML of the operations page stands in config/production.yaml."""
    (example,) = blocks(PAGES["operations.rst"], "yaml")
    whole = yaml.safe_load((ROOT / "config" / "production.yaml").read_text())
    for section, settings in yaml.safe_load(example.text).items():
        assert settings.items() <= whole[section].items()


# -- operations, on real servers


def text_block(beginning: str) -> str:
    (found,) = [
        b.text for b in blocks(PAGES["operations.rst"], "text") if b.text.startswith(beginning)
    ]
    return found


def use_everything(api: SessionAPI) -> None:
    """Everything that a session can be asked."""
    api.check()
    session = api.create({"a": 1, "b": 2})
    token = session.token
    assert token is not None
    session = api.open(token)
    assert session.get("a") == 1
    assert session.all(fresh=True) == {"a": 1, "b": 2}
    session.set("a", [1])
    session.mset({"c": 3, "d": 4})
    assert session.remove(["b", "c"]) == 2
    assert session.pop("d") == 4
    assert session.setdefault("d", 5) == 5
    assert session.increment("d") == 6
    assert session.compare_and_set("d", 6, 7)
    assert session.modify("d", lambda d: d + 1) == 8
    assert session.exists()
    assert session.created() is not None
    assert session.ttl() is not None
    assert session.touch()
    assert session.renew()
    assert session.invalidate()
    use_sign_in(api)


def use_sign_in(api: SessionAPI) -> None:
    """What has to do with users; they may have two sessions."""
    first, second, third = (api.create() for _ in range(3))
    first.login("ann")
    second.login("ann", info={"from": "here"})
    with pytest.raises(TooManySessions):
        third.login("ann")
    assert api.invalidate_id(str(first.id))
    assert [known.id for known in api.sessions_of("ann")] == [second.id]
    assert second.logout()
    third.login("bob")
    assert api.invalidate_user("bob") == 1


@contextmanager
def with_access(server: Server, *rules: str, db: int = 0, **session: str) -> Iterator[SessionAPI]:
    """The utility of an application that has the access of the page, and these rules."""
    command, *words = shlex.split(text_block("redis-cli ACL").replace("\\\n", " "))
    assert (command, *words[:4]) == ("redis-cli", "ACL", "SETUSER", "altsession", "reset")
    server.client.execute_command(*words, *rules)
    server.client.script_flush()
    url = f"unix://altsession:password@{server.socket}?db={db}"
    limits = {"max_sessions_per_user": 2, "on_max_sessions": "deny"}
    api = SessionAPI.from_settings({"redis": {"url": url}, "session": limits | session})
    try:
        yield api
    finally:
        api.close()
        server.client.acl_deluser(words[2])


def test_access_is_enough(any_server: Server) -> None:
    """With the access of the page everything works, on a server that has no script yet."""
    with with_access(any_server) as api:
        use_everything(api)


def test_access_is_the_least(any_server: Server) -> None:
    """Each command of the page is needed: without it something is StoreUnavailable."""
    commands = re.findall(r"\+(\w+)", text_block("redis-cli ACL"))
    needed = []
    for command in commands:
        try:
            for window in ("10", "0"):  # with a tombstone, and without
                with with_access(any_server, f"-{command}", gone_window=window) as api:
                    use_everything(api)
        except StoreUnavailable:
            needed.append(command)
    assert needed == commands


def test_access_for_a_list_of_all(any_server: Server) -> None:
    """``scan`` needs +scan, as the page says."""
    with with_access(any_server) as api, pytest.raises(StoreUnavailable):
        list(api.scan())
    with with_access(any_server, "+scan") as api:
        session = api.create()
        assert [known.id for known in api.scan()] == [session.id]


def test_access_to_another_prefix(any_server: Server) -> None:
    """The access of the page reaches no other keys."""
    with with_access(any_server, prefix="other") as api, pytest.raises(StoreUnavailable):
        api.create()


def test_access_to_another_database(any_server: Server) -> None:
    """Another database needs +select, as the page says."""
    with with_access(any_server, db=1) as api, pytest.raises(StoreUnavailable):
        api.check()
    with with_access(any_server, "+select", db=1) as api:
        use_everything(api)


@pytest.fixture(params=["valkey", "redis7"])
def configured(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind with the settings that the operations page advises."""
    lines = text_block("maxmemory ").splitlines()
    options = [word for line in lines for word in ("--" + line.split()[0], line.split()[1])]
    if request.param == "valkey":
        server = valkey(*options)
    else:
        server = Server(request.getfixturevalue("redis7_server").binary, *options)
    yield server
    server.stop()


def test_advised_settings_of_the_server(configured: Server) -> None:
    """Servers know the settings, and a value of 300 bytes keeps the hash in its small form."""
    names = [line.split()[0] for line in text_block("maxmemory ").splitlines()]
    found = configured.client.config_get(*names)
    assert (sorted(found), found["maxmemory-policy"]) == (sorted(names), "noeviction")
    api = SessionAPI.from_settings({"redis.url": configured.url})
    session = api.create({"text": "x" * 300})
    assert configured.client.object("ENCODING", f"sess:{session.id}") == b"listpack"
    api.close()


def test_session_by_hand(server: Server) -> None:
    """A session on the server looks as the page shows it."""
    api = SessionAPI.from_settings({"redis.url": server.url})
    session = api.create({"cart": ["tea", "honey"]})
    command, shown, *_ = text_block("> HGET").splitlines()
    _, _, key, field = command.split()
    assert re.fullmatch(r"sess:[\w-]{22}", key)
    held = server.client.hget(f"sess:{session.id}", field)
    assert held is not None
    assert json.dumps(held.decode()) == shown
    api.close()
