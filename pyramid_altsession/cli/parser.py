"""The arguments of the command line."""

import argparse
import re
from collections.abc import Callable, Sequence

from .._version import VERSION
from ..protocol.token import ID_LENGTH

EXAMPLES = """\
examples:
  altsession production.ini list --user ann
  altsession production.ini show 3q2-7wRzJrUuFfQmZ0c5Hg
  altsession production.ini end-user ann
  altsession config/altsession.yaml stats --json
  altsession production.ini watch --user ann
  altsession production.ini doctor altsession.redis.timeout=5
"""

_HANDLE = re.compile(f"-[A-Za-z0-9_-]{{{ID_LENGTH - 1}}}")
"""A session id, or a user id made like one, that argparse would take for an option."""
_MARK = "\0"
"""Put before such an argument while argparse sorts them; no argument of a process holds it."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, as argparse takes them. A session id or user id may begin with a hyphen, and
    settings may follow an option; there argparse leaves them over.
    """
    marked = [f"{_MARK}{arg}" if _HANDLE.fullmatch(arg) else arg for arg in argv]
    own = parser()
    arguments, rest = own.parse_known_args(marked)
    if unknown := [arg for arg in rest if arg.startswith("-")]:
        own.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.overrides += [_text(arg) for arg in rest]
    return arguments


def _text(argument: str) -> str:
    return argument.removeprefix(_MARK)


Add = Callable[..., argparse.ArgumentParser]


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


_whole.__name__ = "whole number"


def parser() -> argparse.ArgumentParser:
    """``altsession CONFIG_URI COMMAND …``"""
    found = argparse.ArgumentParser(
        prog="altsession",
        description="See and end sessions, and find out whether the server is fit to hold them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--version", action="version", version=VERSION)
    found.add_argument(
        "config_uri",
        metavar="CONFIG_URI",
        type=_text,
        help="the application's .ini or .yaml file",
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="one JSON object on each line")
    commands = found.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help, parents=[common])

    _add_commands(add)
    for each in commands.choices.values():
        each.add_argument(
            "overrides",
            metavar="key=value",
            nargs="*",
            type=_text,
            help="altsession.… outweighs the file; others are variables of the file",
        )
    return found


def _add_commands(add: Add) -> None:
    _add_user(add("list", "list all sessions"))
    show = add("show", "one session: its times, keys and sizes")
    show.add_argument("id", metavar="ID", type=_text)
    show.add_argument("--values", action="store_true", help="what it holds, too")
    add("end", "end one session").add_argument("id", metavar="ID", type=_text)
    add("end-user", "end all sessions of a user").add_argument("user", metavar="USER", type=_text)
    end_all = add("end-all", "end every session; asks first")
    end_all.add_argument("--yes", action="store_true", help="do not ask")
    add("stats", "how many sessions there are, how large and how old")
    add("doctor", "whether the server and the settings are fit for sessions")
    add("secret", "print a new secret for session.secret")
    add("settings", "the settings in force, and where each comes from; secrets are masked")
    watch = add("watch", "sign-ins, logouts and ended sessions, as they happen; Ctrl-C ends it")
    _add_user(watch)
    load = add("load", "fill a test server with sessions; refuses one that holds others")
    load.add_argument("number", metavar="N", type=_whole)


def _add_user(command: argparse.ArgumentParser) -> None:
    command.add_argument("--user", type=_text, help="only those of this user")
