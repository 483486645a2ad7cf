"""Settings from a YAML file: the tree of ``redis:``, ``session:`` and so on, with variables.

Every value keeps its line, for messages; no message shows a value of the file.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class Source(NamedTuple):
    """Settings under their dotted names, where each was found ("file:line: "), and what was
    wrong there."""

    values: Mapping[str, object]
    places: Mapping[str, str] = {}
    faults: tuple[str, ...] = ()


def read_yaml(path: str, environ: Mapping[str, str] = os.environ) -> Source:
    """What a YAML file sets. ``${NAME}`` and ``${NAME:-default}`` stand for variables."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        loader = yaml.SafeLoader(text)
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
        return Source({}, faults=(f"{path}{line}: not YAML: {error.problem}",))
    except yaml.YAMLError:
        return Source({}, faults=(f"{path}: not YAML",))


def variable_in(value: object) -> str | None:
    """The first variable that stands in a text or a list of texts, as ``${NAME}``."""
    texts = value if isinstance(value, list | tuple) else [value]
    found = [m[1] for t in texts if isinstance(t, str) and (m := _VARIABLE.search(t))]
    return f"${{{found[0]}}}" if found else None


class _Reader:
    def __init__(self, path: str, loader: yaml.SafeLoader, environ: Mapping[str, str]) -> None:
        self.path = path
        self.loader = loader
        self.environ = environ
        self.faults: list[str] = []

    def read(self, root: yaml.Node | None) -> Source:
        values: dict[str, object] = {}
        places: dict[str, str] = {}
        if isinstance(root, yaml.MappingNode):
            for name, node in self.leaves("", root):
                place = self.place(node) + ": "
                if name in values:
                    self.faults.append(f"{place}altsession.{name}: given twice")
                places[name] = place
                try:
                    value = self.loader.construct_object(node, deep=True)
                except ValueError:  # a date or number that is none
                    self.faults.append(f"{place}altsession.{name}: not a value of YAML")
                else:
                    values[name] = self.expand(value, place)
        elif root is not None:
            self.faults.append(
                f"{self.place(root)}: must be a mapping with sections such as redis: and session:"
            )
        return Source(values, places, tuple(self.faults))

    def leaves(self, prefix: str, mapping: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
        for key, node in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                self.faults.append(f"{self.place(key)}: a setting's name must be a text")
            elif isinstance(node, yaml.MappingNode):
                yield from self.leaves(f"{prefix}{key.value}.", node)
            else:
                yield f"{prefix}{key.value}", node

    def place(self, node: yaml.Node) -> str:
        return f"{self.path}:{node.start_mark.line + 1}"

    def expand(self, value: Any, place: str) -> Any:
        if isinstance(value, list):
            return [self.expand(item, place) for item in value]
        if not isinstance(value, str):
            return value

        def variable(match: re.Match[str]) -> str:
            name, default = match.groups()
            found = self.environ.get(name, default)
            if found is None:
                self.faults.append(f"{place}the environment has no variable {name}")
            return found or ""

        return _VARIABLE.sub(variable, value)
