"""How the package is laid out: imports go one way, and including it touches no network."""

import ast
import configparser
import importlib
import re
import socket
import subprocess
import threading
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from pyramid.config import PHASE1_CONFIG, Configurator
from pyramid.exceptions import ConfigurationError
from pyramid.interfaces import IRequestExtensions

import pyramid_altsession
from pyramid_altsession import ISessionAPI

PACKAGE = Path(str(resources.files("pyramid_altsession")))

LAYERS = [
    {"_version", "errors", "protocol.contract", "interfaces", "events"},
    {f"config{name}" for name in ("", ".converters", ".server_url", ".sources", ".table")}
    | {"config.sessions"}
    | {"config.yamlfile", "codecs"}
    | {f"codecs.{path.stem}" for path in PACKAGE.glob("codecs/*.py")},
    {"protocol"}
    | {f"protocol.{path.stem}" for path in PACKAGE.glob("protocol/*.py")} - {"protocol.contract"},
    {"stores"}
    | {
        f"stores.{name}"
        for name in [
            "apply",
            "memory",
            "sealed",
            "observed",
            "trace",
            "summary",
            "traffic",
            "supervisor",
            "embedded",
            "redis",
        ]
    }
    | {f"stores.redis.{path.stem}" for path in PACKAGE.glob("stores/redis/*.py")},
    {"batch", "session_base", "session", "settings"},
    {"web", "web.cookie", "web.ending", "web.requests", "web.visits", "api_base", "api"},
    {f"web.{path.stem}" for path in PACKAGE.glob("web/*.py")}
    - {"web.cookie", "web.ending", "web.requests", "web.visits"},
    {"security", "testing", "tween"}
    | {f"testing.{path.stem}" for path in PACKAGE.glob("testing/*.py")},
    {"aio"} | {f"aio.{path.stem}" for path in PACKAGE.glob("aio/*.py")},
    {"", "demo", "debugtoolbar", "opentelemetry", "prometheus"},
    {"admin.views"},
    {"admin", "cli"} | {f"cli.{path.stem}" for path in PACKAGE.glob("cli/*.py")},
]
"""From below to above; a module imports from its own layer and those below it."""


def modules() -> dict[str, Path]:
    """Every module by its name within the package; the package itself is ""."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "demo":
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def test_a_module_is_short() -> None:
    """Nobody has to read more than 400 lines at a time."""
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def imports(name: str, path: Path) -> set[str]:
    """Modules of the package that this one imports, for type checkers alone or not."""
    tree = ast.parse(path.read_text())
    parents = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    parents = [part for part in parents if part]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parents[: len(parents) - node.level + 1]
            target = [*base, *(node.module or "").split(".")] if node.module else base
            found.add(".".join(target))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE.name):
            found.add((node.module or "").partition(".")[2])
        elif isinstance(node, ast.Import):
            ours = [a.name for a in node.names if a.name.partition(".")[0] == PACKAGE.name]
            found |= {ours_name.partition(".")[2] for ours_name in ours}
    return found


def running(path: Path) -> str:
    """A module's source without what stands under ``if TYPE_CHECKING:``."""

    class Strip(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> Any:
            return None if ast.unparse(node.test) == "TYPE_CHECKING" else node

    return ast.unparse(Strip().visit(ast.parse(path.read_text())))


def layer(name: str) -> int:
    return next(place for place, names in enumerate(LAYERS) if name in names)


def test_every_module_has_its_layer() -> None:
    """No module stands outside the layers."""
    assert set(modules()) - set().union(*LAYERS) == set()


@pytest.mark.slow
def test_imports_go_one_way(tmp_path: Path) -> None:
    """A module imports nothing from a layer above its own."""
    above = []
    for name, path in modules().items():
        copy = tmp_path / path.name
        copy.write_text(running(path))
        above += [(name, other) for other in imports(name, copy) if layer(other) > layer(name)]
    assert above == []


def test_no_private_name_is_imported() -> None:
    """What another module uses has a public name."""
    imported = [
        (name, alias.name)
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    ]
    assert [each for each in imported if re.match(r"_[a-zA-Z]", each[1])] == []


def private_attributes(path: Path) -> list[str]:
    """Those that a module uses, and that belong to no class of its own."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    own = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls", "super()")
    }
    own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return [
        ast.unparse(node)
        for node in nodes
        if isinstance(node, ast.Attribute)
        and re.match(r"_[a-zA-Z]", node.attr)
        and node.attr not in own
    ]


def test_no_private_attribute_of_another_module() -> None:
    """A private attribute that a module uses belongs to a class of its own, or to redis-py's
    connections; names such as ``_replace`` are documented."""
    used = [(name, each) for name, path in modules().items() for each in private_attributes(path)]
    documented = ("_sock", "_replace", "_asdict", "_fields", "_exit")
    assert [(name, each) for name, each in used if not each.endswith(documented)] == []


@pytest.mark.slow
def test_imports_form_no_circle(tmp_path: Path) -> None:
    """No module imports itself over others."""
    graph = {}
    for name, path in modules().items():
        copy = tmp_path / path.name
        copy.write_text(running(path))
        graph[name] = imports(name, copy)
    while free := [name for name, needs in graph.items() if not needs & set(graph)]:
        for name in free:
            del graph[name]
    assert graph == {}


@pytest.mark.parametrize("name", ["security", "settings", "tween"])
def test_documented_import_paths(name: str) -> None:
    """Modules that the docs name serve what moved into the rooms."""
    module = importlib.import_module(f"pyramid_altsession.{name}")
    assert [each for each in module.__all__ if not hasattr(module, each)] == []


def test_package_exports() -> None:
    """The package exports what its __all__ names."""
    missing = [n for n in pyramid_altsession.__all__ if not hasattr(pyramid_altsession, n)]
    assert missing == []


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket, process or thread can be had."""

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("no network while the application is configured")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "url",
    [
        None,
        "redis://nowhere.invalid",
        "rediss://nowhere.invalid",
        "valkey://127.0.0.1:1",
        "unix:///nowhere",
        "embedded://",
        "embedded:///tmp/nowhere",
        "memory://",
    ],
)
def test_includes_do_no_network(url: str | None) -> None:
    """Including the package and making the application connects to nothing and starts nothing."""
    config = Configurator(settings={} if url is None else {"altsession.redis.url": url})
    config.include("pyramid_altsession")
    config.make_wsgi_app()
    assert config.registry.getUtility(ISessionAPI).settings.redis.url == url


def test_everything_is_an_action() -> None:
    """What the include registers can be seen in the introspection, and the property is reified."""
    config = Configurator(settings={"altsession.redis.url": "memory://"})
    config.include("pyramid_altsession")
    config.commit()
    (entry,) = config.introspector.get_category("altsession")
    assert entry["introspectable"].title == "sessions in Redis or Valkey"
    extensions = config.registry.getUtility(IRequestExtensions)
    assert list(extensions.descriptors) == ["altsession"]


def test_settings_may_be_added_after_the_include() -> None:
    """Settings are read when the configuration is committed, not at the include."""
    config = Configurator()
    config.include("pyramid_altsession")
    config.add_settings({"altsession.redis.url": "memory://"})
    config.commit()
    assert config.registry.getUtility(ISessionAPI).settings.redis.url == "memory://"


def test_utility_is_there_for_later_actions() -> None:
    """The utility is registered in the first phase: a view deriver or an action of another
    add-on finds it."""
    config = Configurator(settings={"altsession.redis.url": "memory://"})
    found = []

    def late() -> None:
        found.append(config.registry.queryUtility(ISessionAPI))

    config.action("late", late, order=PHASE1_CONFIG + 1)
    config.include("pyramid_altsession")
    config.commit()
    assert ISessionAPI.providedBy(found[0])


def test_wrong_settings_fail_at_start() -> None:
    """A wrong setting is a ConfigurationError when the application is made."""
    config = Configurator(settings={"altsession.session.ttl": "5"})
    config.include("pyramid_altsession")
    with pytest.raises(ConfigurationError, match=r"altsession\.session\.ttl"):
        config.make_wsgi_app()


def test_included_twice() -> None:
    """Two includes of the package by an application's parts are one."""
    config = Configurator(settings={"altsession.redis.url": "memory://"})

    def part(config: Configurator) -> None:
        config.include("pyramid_altsession")

    config.include("pyramid_altsession")
    config.include(part)
    config.make_wsgi_app()


EXTRAS = ("admin", "cli", "debugtoolbar", "embedded", "encryption", "opentelemetry", "prometheus")


def test_lowest_versions_are_those_that_are_tried() -> None:
    """``make lowest`` runs the tests with the lower bounds of what setup.cfg installs."""
    root = Path(__file__).parents[2]
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    extras = setup["options.extras_require"]
    wanted = setup["options"]["install_requires"]
    wanted += "".join(extras[name] for name in EXTRAS)
    bounds = re.findall(r"^([\w.-]+)(?:\[\w+\])? >= ([\d.]+)$", wanted, re.MULTILINE)
    tried = re.findall(r"^([\w.-]+) == ([\d.]+)$", (root / "tests/lowest.txt").read_text(), re.M)
    assert sorted(bounds) == tried


PRIVATE = re.compile(r"_[A-Za-z]\w*")
MOST = 30
"""Lines of the tests that touch a private name of the package; it may become less."""


def private_names() -> set[str]:
    """What the package defines under a name that begins with one underscore."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    found.add(name)
                case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                    found.add(name)
                case ast.Constant(value=str(name)):  # __slots__
                    found.add(name)
    return {name for name in found if PRIVATE.fullmatch(name)}


def touches(path: Path, names: set[str]) -> int:
    """Lines of a file that touch one of the names, but for those that are its own too."""
    source = path.read_text()
    own, lines = set(re.findall(r"(?:def |self\.)(_\w+)", source)), set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name) if name in own:
                continue
            case ast.Attribute(attr=name) if name in names:
                lines.add(node.lineno)
            case ast.ImportFrom(names=imported) if names & {each.name for each in imported}:
                lines.add(node.lineno)
    return len(lines)


@pytest.mark.slow
def test_tests_keep_to_what_is_public() -> None:
    """The tests touch the package's private names in few places (support/inside.py)."""
    names = private_names()
    found = {path: touches(path, names) for path in Path(__file__).parents[1].rglob("*.py")}
    assert sum(found.values()) <= MOST


def test_names_of_test_modules_are_unique() -> None:
    """pytest imports them, and their conftests, by name: of two it finds one."""
    tests = list(Path(__file__).parents[1].rglob("*.py"))
    modules = sorted(path.name for path in tests if path.name.startswith("test_"))
    assert sorted(set(modules)) == modules
    importing = re.compile(r"^(?:from|import) conftest\b", re.M)
    assert [path for path in tests if importing.search(path.read_text())] == []
