"""Settings from a YAML file: values, variables, places, and everything that can be wrong."""

from pathlib import Path

import pytest
from pyramid.exceptions import ConfigurationError

from pyramid_altsession.config.sources import from_ini, read_settings
from pyramid_altsession.config.yamlfile import read_yaml

ENVIRON = {
    "SECRET": "canary-of-the-environment",
    "EMPTY": "",
    "BRACES": "a${b",
    "NESTED": "canary-${INNER:-canary}",
}
VARIABLES = "a variable is ${NAME} or ${NAME:-default}, and no variable stands in a default"


IN_QUOTES = "a sign of YAML's in a value; put the value in quotes"
NOT_HERE = "of YAML's, and there are none here; put the value in quotes"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.yaml"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("# nothing\n", {}),
        ("session:\n  tti: 300\n", {"session.tti": 300}),
        ("session: {tti: 1.5, secure: no}\n", {"session.tti": 1.5, "session.secure": False}),
        ("session:\n  prefetch: [cart, user]\n", {"session.prefetch": ["cart", "user"]}),
        ("redis:\n  url: ${SECRET}\n", {"redis.url": "canary-of-the-environment"}),
        ("redis:\n  url: redis://${NONE:-db}:1\n", {"redis.url": "redis://db:1"}),
        ("redis:\n  url: ${EMPTY}\n", {"redis.url": ""}),
        ("redis:\n  url: ${EMPTY:-db}\n", {"redis.url": "db"}),
        ("redis:\n  url: ${EMPTY:-}\n", {"redis.url": ""}),
        ("redis:\n  url: ${NONE:-}\n", {"redis.url": ""}),
        ('session:\n  secret: ["${SECRET}", b]\n', {"session.secret": [ENVIRON["SECRET"], "b"]}),
        ("redis:\n  password: ${NONE:-$a{b$}$\n", {"redis.password": "$a{b$$"}),
        ("redis:\n  password: ${BRACES}\n", {"redis.password": "a${b"}),
        ("session:\n", {"session": None}),
        *(
            (f"session:\n  tti: {text}\n", {"session.tti": value})
            for text, value in (
                ("01200", 1200),
                ("-07", -7),
                ("1_200", 1200),
                ("0_1", 1),
                ("1.5", 1.5),
                (".5", 0.5),
                ("1_0.5", 10.5),
                ("20:00", "20:00"),
                ("1:30.5", "1:30.5"),
                ("0x10", "0x10"),
                ("0b11", "0b11"),
                ("1__0", "1__0"),
                (".inf", ".inf"),
            )
        ),
    ],
)
def test_values(path: Path, text: str, values: dict[str, object]) -> None:
    """Values are typed and nested; variables are replaced, with defaults, in lists as well."""
    path.write_text(text)
    source = read_yaml(str(path), ENVIRON)
    assert (source.values, source.faults) == (values, ())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- a\n- b\n", "{p}:1: must be a mapping with sections such as redis: and session:"),
        ("just text", "{p}:1: must be a mapping with sections such as redis: and session:"),
        ("a: [1\nb: canary", "{p}:2: not YAML: expected ',' or ']'"),
        ("\tx: canary", "{p}:1: not YAML: a tab; indent with blanks"),
        ("a: \x01canary", "{p}: not YAML"),
        ("a: 1\n---\nb: 2\n", "{p}:2: not YAML: it holds several documents"),
        ("session:\n  tti: 1\n  tti: 2\n", "{p}:3: altsession.session.tti: given twice"),
        ("redis:\n  url: ${NONE}\n", "{p}:2: the environment has no variable NONE"),
        ("? [a]\n: 1\n", "{p}:1: a setting's name must be a text"),
        ("session:\n  tti: 2026-13-45\n", "{p}:2: altsession.session.tti: not a value of YAML"),
        (
            "session:\n  tti: !!python/name:os.canary\n",
            f"{{p}}:2: ! in front of a value is a tag {NOT_HERE}",
        ),
        ("redis:\n  password: *canary\n", f"{{p}}:2: * in front of a value is an alias {NOT_HERE}"),
        (
            "redis:\n  password: &canary\n",
            f"{{p}}:2: & in front of a value is an anchor {NOT_HERE}",
        ),
        ("session:\n  secret: !canary\n", f"{{p}}:2: ! in front of a value is a tag {NOT_HERE}"),
        ("session:\n  secret: ! canary\n", f"{{p}}:2: ! in front of a value is a tag {NOT_HERE}"),
        ("a:\n  - !!str canary\n", f"{{p}}:2: ! in front of a value is a tag {NOT_HERE}"),
        ("*canary : 1\n", f"{{p}}:1: * in front of a value is an alias {NOT_HERE}"),
        ("a: &canary\n  b: 1\n", f"{{p}}:1: & in front of a value is an anchor {NOT_HERE}"),
        ("a: *canary-b/c\n", "{p}:1: not YAML: " + IN_QUOTES),
        ("a: !canary!b\n", "{p}:1: not YAML: " + IN_QUOTES),
        ("a: %canary\n", "{p}:1: not YAML: " + IN_QUOTES),
        ("a: @canary\n", "{p}:1: not YAML: " + IN_QUOTES),
        ("a: |canary\n", "{p}:1: not YAML: " + IN_QUOTES),
        ('a: "\\canary"\n', "{p}:1: not YAML: " + IN_QUOTES),
        ("a: }canary\n", "{p}:1: not YAML: expected the node content"),
        ("a: 'b'canary\n", "{p}:1: not YAML: expected <block end>"),
        ("a: b: canary\n", "{p}:1: not YAML: mapping values are not allowed here"),
        ("a:\n\tb: canary\n", "{p}:2: not YAML: a tab; indent with blanks"),
        ("a: 'canary\n", "{p}:2: not YAML: found unexpected end of stream"),
        ("a: =\n", "{p}:1: altsession.a: not a value of YAML"),
        ("%YAML 3.0\n---\na: canary\n", "{p}:1: not YAML: " + IN_QUOTES),
        ("[" * 5000, "{p}: must be a mapping with sections, not nested so deeply"),
    ],
)
def test_faults(path: Path, text: str, fault: str) -> None:
    """A fault names file and line, and shows nothing of the file's values."""
    path.write_text(text)
    (found,) = read_yaml(str(path), {}).faults
    assert found == fault.format(p=path)
    assert "canary" not in found.replace(str(path), "")


def test_no_blank_after_the_colon(path: Path) -> None:
    """The whole line is then one text, where a section is wanted."""
    path.write_text("redis:\n  url:redis://:canary@db\n")
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"config": str(path)})
    assert str(caught.value).endswith(
        f"{path}:2: altsession.redis: must be a section of settings, such as altsession.redis.url;"
        " YAML wants a blank after each colon"
    )


@pytest.mark.parametrize("text", ["20:00", "0x10", "1:30.5"])
def test_numbers_of_other_bases(path: Path, text: str) -> None:
    """What YAML takes for a number to the base 60 or 16 is refused as it is written, not used as
    the number that nobody meant."""
    path.write_text(f"session:\n  lifetime: {text}\n")
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"config": str(path)})
    assert str(caught.value).endswith(
        f"{path}:2: altsession.session.lifetime: must be a number of seconds from 0 to 9999999999,"
        f" not '{text}'"
    )


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        *(
            (value, VARIABLES)
            for value in (
                "${NONE:-${SECRET}}",
                "${SECRET:-${OLD}}",
                "${SECRET:-canary${SECRET}canary}",
                "${NONE-canary}",
                "${SECRET:?canary}",
                "${ SECRET }",
                "${1}",
                "${SECRET",
                "canary${SECRET}${",
            )
        ),
        ("${NESTED}", "${INNER} stands in the value of a variable, where nothing is replaced"),
        (
            "${NESTED}${NONE:-1}",
            "${INNER} stands in the value of a variable, where nothing is replaced",
        ),
    ],
)
@pytest.mark.parametrize("text", ["redis:\n  password: '{}'\n", "redis:\n  password: ['{}']\n"])
def test_variables_that_would_stay(path: Path, text: str, value: str, fault: str) -> None:
    """A text that still has a variable in it is no value, whether it stands in the file or comes
    from the environment: everybody would know it."""
    path.write_text(text.format(value))
    source = read_yaml(str(path), ENVIRON)
    assert source.faults == (f"{path}:2: altsession.redis.password: {fault}",)
    assert source.values in ({"redis.password": ""}, {"redis.password": [""]})


def test_signs_with_every_other_fault(path: Path) -> None:
    """Aliases, anchors and tags are told together with all else, each with its line; what holds
    itself does no harm."""
    path.write_text("redis: &canary\n  url: *canary\n  password: !canary\nsession:\n  ttl: 1\n")
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"config": str(path)})
    lines = str(caught.value).replace(str(path), "").split("\n  ")[1:]
    assert lines == [
        f":1: & in front of a value is an anchor {NOT_HERE}",
        f":2: * in front of a value is an alias {NOT_HERE}",
        f":3: ! in front of a value is a tag {NOT_HERE}",
        ":5: altsession.session.ttl: there is no such setting;"
        " did you mean altsession.session.tti?",
    ]


@pytest.mark.parametrize("value", ["'*hunter2'", '"&hunter2"', "'!hunter2'", '"%hunter2"'])
def test_quoted_signs(path: Path, value: str) -> None:
    """In quotes each of them is a part of the value, as the message says."""
    path.write_text(f"redis:\n  password: {value}\n")
    assert read_settings({"config": str(path)}).redis.password == value[1:-1]


def test_braces_around_a_secret(path: Path) -> None:
    """A value in braces is a mapping of YAML's, whose key is not shown."""
    path.write_text("redis:\n  password: {canary}\nsession:\n  secret: {canary: {more: 1}}\n")
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"config": str(path)})
    assert "canary" not in str(caught.value)
    assert str(caught.value).count("must be one value, without settings below it") == 2


def test_outer_section(path: Path) -> None:
    """The section of an application's settings around the others is told once, with the faults
    within it."""
    path.write_text("altsession:\n  redis:\n    url: memory://\n  session:\n    ttl: 1\n")
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"config": str(path)})
    assert str(caught.value).replace(str(path), "").split("\n  ")[1:] == [
        ":1: altsession: the file is about nothing else; remove this line, and begin with its"
        " sections",
        ":5: altsession.session.ttl: there is no such setting;"
        " did you mean altsession.session.tti?",
    ]


def test_mapping_that_holds_itself() -> None:
    """So is a mapping that holds itself, as ``pserve app.yaml`` makes it of a recursive alias."""
    mapping: dict[str, object] = {"url": "memory://"}
    mapping["redis"] = mapping
    for given in ({"redis": mapping}, from_ini({"altsession": {"redis": mapping}})):
        with pytest.raises(ConfigurationError, match=r"redis\.redis: there is no such setting"):
            read_settings(given)


def test_no_utf8(path: Path) -> None:
    """The file has to be UTF-8."""
    path.write_bytes(b"a: \xff")
    assert read_yaml(str(path)).faults == (f"altsession.config: {path}: must be UTF-8 text",)


def test_no_file(path: Path) -> None:
    """A missing file is told under the setting that names it."""
    assert read_yaml(str(path)).faults == (f"altsession.config: {path}: No such file or directory",)


@pytest.mark.parametrize("config", ["nowhere_at_all:a.yaml", "os.path:a.yaml", ":a.yaml"])
def test_no_such_package(config: str) -> None:
    """An asset specification of an unknown package is one fault among the others."""
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"config": config, "session.ttl": 1})
    assert "altsession.session.ttl: there is no such setting" in str(caught.value)
    assert "altsession.config: " in str(caught.value)


def test_asset_and_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file may be named by an asset specification or relative to the working directory."""
    package = tmp_path / "a_package_with_settings"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.yaml").write_text("session:\n  tti: 300\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for config in ("a_package_with_settings:a.yaml", "a_package_with_settings/a.yaml"):
        assert read_settings({"config": config}).session.tti == 300


def test_every_source_gives_equal_settings(path: Path) -> None:
    """ini, YAML, nested settings of ``pserve app.yaml`` and a plain mapping mean the same."""
    path.write_text(
        "redis:\n  host: db\n  port: 7000\nsession:\n  tti: 300\n  secure: false\n"
        "  prefetch: [a, b]\nlog_events: true\n"
    )
    nested = {
        "redis": {"host": "db", "port": 7000},
        "session": {"tti": 300, "secure": False, "prefetch": ["a", "b"]},
        "log_events": True,
    }
    ini = {
        "altsession.redis.host": "db",
        "altsession.redis.port": "7000",
        "altsession.session.tti": "300",
        "altsession.session.secure": "false",
        "altsession.session.prefetch": "a b",
        "altsession.log_events": "true",
    }
    expected = read_settings(nested)
    assert read_settings({"config": str(path)}) == expected
    assert read_settings(from_ini(ini)) == expected
    assert read_settings(from_ini({"altsession": nested})) == expected


def test_empty_section(path: Path) -> None:
    """A section whose lines are all commented out counts as empty."""
    path.write_text("redis:\nsession:\n  # tti: 1\nsync:\n")
    assert read_settings({"config": str(path)}) == read_settings({})
