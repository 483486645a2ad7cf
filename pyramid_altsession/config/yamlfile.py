"""Settings from a YAML file: the tree of ``redis:``, ``session:`` and so on, with variables.

Every value keeps its line number, for messages; no message shows a value of the file.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import yaml

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_VARIABLE = re.compile(rf"\$\{{({_NAME})(?::-((?:(?!\$\{{)[^}}])*))?\}}")
_UNREPLACED = re.compile(rf"\$\{{\s*({_NAME})[^}}]*\}}")
"""A variable in whatever spelling, such as a shell's."""


class Source(NamedTuple):
    """Settings under their dotted names, the place of each ("file:line: "), and the mistakes in the
    file.
    """

    values: Mapping[str, object]
    places: Mapping[str, str] = {}
    faults: tuple[str, ...] = ()


def read_yaml(path: str, environ: Mapping[str, str] = os.environ) -> Source:
    """Read a YAML file's settings. ``${NAME}`` stands for a variable, and ``${NAME:-default}`` for
    the default where the variable is not set or empty, as in a shell.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            return _Reader(path, loader, environ).read(root)
        finally:
            loader.dispose()
    except OSError as error:
        return Source({}, faults=(f"altsession.config: {path}: {error.strerror}",))
    except UnicodeDecodeError:
        return Source({}, faults=(f"altsession.config: {path}: must be UTF-8 text",))
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        return Source({}, faults=(f"{path}{line}: not YAML: {_told(error)}",))
    except yaml.YAMLError:
        return Source({}, faults=(f"{path}: not YAML",))
    except RecursionError:
        return Source(
            {}, faults=(f"{path}: must be a mapping with sections, not nested so deeply",)
        )


def _told(error: yaml.MarkedYAMLError) -> str:
    """Describe the mistake without the text that was found, which may be a part of a secret."""
    if isinstance(error, yaml.composer.ComposerError):
        return "it holds several documents"
    wanted, found, _ = str(error.problem).partition(", but ")
    if isinstance(error, yaml.parser.ParserError) and found:
        return wanted
    if error.problem in _FIXED:
        return str(error.problem)
    if "'\\t'" in str(error.problem):
        return "a tab; indent with blanks"
    return "a sign of YAML's in a value; put the value in quotes"


_FIXED = (
    "mapping values are not allowed here",
    "could not find expected ':'",
    "found unexpected end of stream",
)


_NULL = "tag:yaml.org,2002:null"


class _Loader(yaml.SafeLoader):
    """Refuses aliases, anchors and tags: a password may begin with such a sign, and would silently
    become something else.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.signs: list[tuple[int, str]] = []

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        parser: Any = self
        event = parser.peek_event()
        sign = "*" if isinstance(event, yaml.AliasEvent) else "&" if event.anchor else ""
        sign = sign or ("!" if event.tag is not None else "")
        if sign:
            self.signs.append((event.start_mark.line, sign))
        if sign == "*":
            parser.get_event()
            return yaml.ScalarNode(_NULL, "", event.start_mark, event.end_mark)
        event.anchor = event.tag = None
        return super().compose_node(parent, index)


def _number(kind: type[int] | type[float]) -> Callable[[_Loader, yaml.ScalarNode], object]:
    """Reads a number to the base 10. YAML 1.1 also has the bases 2, 8, 16 and 60, where 0120 is 80
    and 20:00 is 1200; such a text stays a text, for the setting to refuse.
    """

    def read(loader: _Loader, node: yaml.ScalarNode) -> object:
        text = loader.construct_scalar(node)
        try:
            return kind(text)
        except ValueError:
            return text

    return read


_Loader.add_constructor("tag:yaml.org,2002:int", _number(int))
_Loader.add_constructor("tag:yaml.org,2002:float", _number(float))


def variable_in(value: object) -> str | None:
    """The first variable, such as ``${NAME}``, in a text or a list of texts."""
    texts = value if isinstance(value, list | tuple) else [value]
    found = [m[1] for t in texts if isinstance(t, str) and (m := _UNREPLACED.search(t))]
    return f"${{{found[0]}}}" if found else None


_SIGNS = {
    "*": "* in front of a value is an alias of YAML's, and there are none here",
    "&": "& in front of a value is an anchor of YAML's, and there are none here",
    "!": "! in front of a value is a tag of YAML's, and there are none here",
}


class _Reader:
    def __init__(self, path: str, loader: _Loader, environ: Mapping[str, str]) -> None:
        self.path = path
        self.loader = loader
        self.environ = environ
        self.faults: list[str] = []

    def read(self, root: yaml.Node | None) -> Source:
        values: dict[str, object] = {}
        places: dict[str, str] = {}
        for line, sign in self.loader.signs:
            self.faults.append(f"{self.path}:{line + 1}: {_SIGNS[sign]}; put the value in quotes")
        if isinstance(root, yaml.MappingNode):
            for name, node in self.leaves("", root):
                place = self.place(node) + ": "
                if name in values:
                    self.faults.append(f"{place}altsession.{name}: given twice")
                places[name] = place
                try:
                    value = self.loader.construct_object(node, deep=True)
                except (ValueError, yaml.YAMLError):  # it looks like a date or number, but is none
                    self.faults.append(f"{place}altsession.{name}: not a value of YAML")
                else:
                    values[name] = self.expand(value, place, name)
        elif root is not None:
            self.faults.append(
                f"{self.place(root)}: must be a mapping with sections such as redis: and session:"
            )
        return Source(values, places, tuple(self.faults))

    def leaves(self, prefix: str, mapping: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
        for key, node in mapping.value:
            if self.outer(prefix, key, node):
                yield from self.leaves("", node)
            elif not isinstance(key, yaml.ScalarNode):
                self.faults.append(f"{self.place(key)}: a setting's name must be a text")
            elif isinstance(node, yaml.MappingNode):
                yield from self.leaves(f"{prefix}{key.value}.", node)
            else:
                yield f"{prefix}{key.value}", node

    def outer(self, prefix: str, key: yaml.Node, node: yaml.Node) -> bool:
        """Whether this is a section around all the others, as in the settings of an application."""
        if prefix or key.value != "altsession" or not isinstance(node, yaml.MappingNode):
            return False
        self.faults.append(
            f"{self.place(key)}: altsession: the file is about nothing else; remove this line, and"
            " begin with its sections"
        )
        return True

    def place(self, node: yaml.Node) -> str:
        return f"{self.path}:{node.start_mark.line + 1}"

    def expand(self, value: Any, place: str, name: str) -> Any:
        if isinstance(value, list):
            return [self.expand(item, place, name) for item in value]
        if not isinstance(value, str):
            return value
        if "${" in _VARIABLE.sub("", value):
            self.faults.append(f"{place}altsession.{name}: {_WELL_FORMED}")
            return ""

        def variable(match: re.Match[str]) -> str:
            variable_name, default = match.groups()
            found = self.environ.get(variable_name)
            if found is None and default is None:
                self.faults.append(f"{place}the environment has no variable {variable_name}")
            return found or default or ""

        expanded = _VARIABLE.sub(variable, value)
        left = variable_in(expanded)
        if left:
            self.faults.append(
                f"{place}altsession.{name}: {left} stands in the value of a variable, where nothing"
                " is replaced"
            )
            return ""
        return expanded


_WELL_FORMED = "a variable is ${NAME} or ${NAME:-default}, and no variable stands in a default"
