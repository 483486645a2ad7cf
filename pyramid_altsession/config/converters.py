"""Convert a text or value from a source into a setting's value, or say what was wanted instead."""

import re
from collections.abc import Callable
from datetime import date
from enum import Enum
from typing import Any

from pyramid.path import DottedNameResolver

PREFIX = "altsession."
Converter = Callable[[object], Any]
"""Takes the value that was found and returns the setting's value, or raises ValueError with what
was wanted.
"""


QUOTED = "; put this value in quotes"
UNQUOTED = (int, float, date)
"""What YAML makes of digits, of yes, or of 2026-01-31, without quotes."""


def as_text(value: object) -> str:
    if isinstance(value, UNQUOTED):
        raise ValueError(f"a non-empty text{QUOTED}")
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a non-empty text")
    if not _encodable(value):
        raise ValueError("a text that can be encoded as UTF-8")
    return value.strip()


def _encodable(text: str) -> bool:
    """Refuse lone surrogates: they stand for bytes of the environment that are not UTF-8."""
    return not re.search(r"[\ud800-\udfff]", text)


class UnfitHost(ValueError):
    """A host name that cannot be looked up: the attempt would raise no OSError, which callers know,
    but a UnicodeError.
    """


def _check_host(host: str, wanted: str) -> None:
    """Raise UnfitHost if the name cannot be looked up."""
    try:
        host.encode("idna")
    except UnicodeError:
        wish = f"{wanted} that DNS allows, of 1 to 63 characters between dots"
        raise UnfitHost(wish) from None


def as_host(value: object) -> str:
    text = as_text(value)
    if re.search(r"[/@\s\0]", text):
        raise ValueError(f"a host name or address; a URL goes into {PREFIX}redis.url")
    if "," in text:
        several = f"{PREFIX}redis.sentinels and {PREFIX}redis.cluster take several"
        raise ValueError(f"one host name or address; {several}")
    if text.count(":") == 1:  # an IPv6 address has at least two
        raise ValueError(f"a host name or address; the port goes into {PREFIX}redis.port")
    _check_host(text, "a host name")
    return text


Address = tuple[str, int]
"""Host and port."""
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s/@:,\[\]\0]+)(?::([0-9]{1,5}))?")


def as_addresses(default_port: int) -> Converter:
    """``host:port`` of several servers; the port may be left out, for the default."""
    wanted = (
        f"one or several host:port (without a port: {default_port}); a URL goes into"
        f" {PREFIX}redis.url"
    )

    def convert(value: object) -> tuple[Address, ...]:
        try:
            items = as_texts(value)
        except ValueError:
            raise ValueError(wanted) from None
        found = [_ADDRESS.fullmatch(item) for item in items]
        pairs = [(each[1].strip("[]"), int(each[2] or default_port)) for each in found if each]
        if len(pairs) < len(items) or not all(0 < port < 65536 for _, port in pairs):
            raise ValueError(wanted)
        for host, _ in pairs:
            _check_host(host, "host names")
        return tuple(pairs)

    return convert


def shown(addresses: tuple[Address, ...]) -> str:
    """The addresses, as text for messages."""
    return ", ".join(
        [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses]
    )


def as_path(value: object) -> str:
    text = as_text(value)
    if "://" in text:
        raise ValueError(f"a path; a URL goes into {PREFIX}redis.url")
    return text


LARGEST = 9_999_999_999
"""In seconds, 317 years."""


def as_number(minimum: float, unit: str, *, above: bool = False) -> Converter:
    span = f"above {minimum:g} and at most" if above else f"from {minimum:g} to"
    wanted = f"a number of {unit} {span} {LARGEST}"

    def convert(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(wanted)
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise ValueError(wanted) from None
        if not minimum <= number <= LARGEST or (above and number == minimum):
            raise ValueError(wanted)
        return number

    return convert


def as_whole(minimum: int, maximum: int) -> Converter:
    wanted = f"a whole number from {minimum} to {maximum}"

    def convert(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError(wanted)
        try:
            number = int(value)
        except ValueError:
            raise ValueError(wanted) from None
        if not minimum <= number <= maximum:
            raise ValueError(wanted)
        return number

    return convert


def as_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "yes", "on", "1"):
        return True
    if isinstance(value, str) and value.strip().lower() in ("false", "no", "off", "0"):
        return False
    raise ValueError("true or false")


def as_events(value: object) -> bool | str:
    if isinstance(value, str) and value.strip().lower() == "json":
        return "json"
    try:
        return as_flag(value)
    except ValueError:
        raise ValueError("true, false or json") from None


def as_texts(value: object) -> tuple[str, ...]:
    """A list, or one text whose items are separated by white space or commas."""
    items = re.split(r"[\s,]+", value.strip()) if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(i, str) and i for i in items):
        raise ValueError("a list of texts")
    return tuple(items)


def as_names(value: object) -> tuple[str, ...]:
    """Names, without repetition, that can be a part of an attribute's name."""
    wanted = "a list of names, each of a-z, 0-9 and _ and beginning with a letter"
    try:
        found = as_texts(value)
    except ValueError:
        raise ValueError(wanted) from None
    if len(set(found)) < len(found) or not all(re.fullmatch("[a-z][a-z0-9_]*", n) for n in found):
        raise ValueError(wanted)
    return found


def as_secrets(value: object) -> tuple[str, ...]:
    wanted = "one or several secrets of at least 16 characters, separated by blanks or commas"
    if isinstance(value, UNQUOTED):
        raise ValueError(f"{wanted}{QUOTED}")
    try:
        found = as_texts(value)
    except ValueError:
        raise ValueError(wanted) from None
    if any(len(secret) < 16 or not _encodable(secret) for secret in found):
        raise ValueError(wanted)
    return found


def as_matching(pattern: str, wanted: str) -> Converter:
    compiled = re.compile(pattern)

    def convert(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value.strip()):
            raise ValueError(wanted)
        return value.strip()

    return convert


def as_choice(*choices: str) -> Converter:
    def convert(value: object) -> str:
        for choice in choices:
            if isinstance(value, str | float) and str(value).strip().lower() == choice.lower():
                return choice
        raise ValueError("one of " + ", ".join(choices))

    return convert


def _resolved(name: object, wanted: str) -> Any:
    """The object that a dotted name stands for; ValueError says why it cannot be found."""
    try:
        return DottedNameResolver(None).maybe_resolve(name)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{wanted} ({error})") from None


def as_callable(value: object) -> Callable[..., Any]:
    wanted = "the dotted name of something that can be called"
    found = _resolved(value, wanted)
    if not callable(found):
        raise ValueError(wanted)
    return found


def as_enums(value: object) -> tuple[type[Enum], ...]:
    wanted = "dotted names of enumerations"
    names = as_texts(value) if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise ValueError(wanted)
    found = []
    for name in names:
        kind = _resolved(name, wanted)
        if not (isinstance(kind, type) and issubclass(kind, Enum)):
            raise ValueError(f"{wanted} ({name!r} is none)")
        found.append(kind)
    return tuple(found)


def as_prefix(value: object) -> str:
    wanted = (
        "1 to 64 letters, digits or any of . : _ - / (no braces: they would choose the cluster's"
        " slot), not ending in ':user'"
    )
    text = as_matching(r"[A-Za-z0-9.:_/-]{1,64}", wanted)(value)
    if f":{text}".endswith(":user"):
        raise ValueError(wanted)
    return str(text)


as_sentinels = as_addresses(26379)
as_nodes = as_addresses(6379)
as_port = as_whole(1, 65535)
as_above_zero = as_number(0, "seconds", above=True)
as_seconds = as_number(0, "seconds")
TOKEN_CHARACTERS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
