"""``altsession CONFIG_URI COMMAND``: the operator's tool."""

import json
import logging
import os
import secrets
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper

import plaster
from pyramid.exceptions import ConfigurationError

from ..errors import AltSessionError
from .configuration import Configured, read, shown
from .doctor import doctor
from .errors import CommandError
from .load import load
from .output import Lines, Output, printable
from .parser import parse
from .sessions import end, end_all, end_user, listed, show
from .stats import stats
from .watch import watch

Run = Callable[[Namespace, Configured, Output], int]


def settings(arguments: Namespace, configured: Configured, output: Output) -> int:
    """Every setting, its value and its source."""
    output.rows(shown(configured), {"setting": 0, "value": 0, "source": 0})
    return 0


COMMANDS: dict[str, Run] = {
    "list": listed,
    "show": show,
    "end": end,
    "end-user": end_user,
    "end-all": end_all,
    "stats": stats,
    "doctor": doctor,
    "settings": settings,
    "load": load,
    "watch": watch,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The console script; returns its exit code. An error is one line on standard error."""
    if isinstance(sys.stdout, TextIOWrapper):  # its encoding may lack what is printed, such as a –
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = parse(sys.argv[1:] if argv is None else argv)
    if sys.stdout is None:  # a file or connection would be opened in its place
        return _failed("standard output is closed")
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code
    except (CommandError, ConfigurationError, AltSessionError) as error:
        return _failed(str(error))
    except BrokenPipeError:  # the reader of the pipe has closed it, as `head` does
        _drop_output()
        return 1
    except OSError as error:
        _drop_output()
        return _failed(f"{error.filename or 'standard output'}: {error.strerror}")
    except KeyboardInterrupt:
        return 130


def _failed(said: str) -> int:
    lines = [line.strip() for line in said.split("\n")]
    print(printable(f"altsession: {' '.join(lines)}"), file=sys.stderr)
    return 1


def _drop_output() -> None:
    """What was not written yet goes nowhere: the end of the process must not stumble over it."""
    with open(os.devnull, "w") as nowhere, suppress(OSError):
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def run(arguments: Namespace) -> int:
    """One command."""
    if arguments.command == "secret":
        secret = secrets.token_urlsafe(32)
        print(json.dumps({"secret": secret}) if arguments.json else secret)
        return 0
    output = output_for(arguments.json)
    configured = read(arguments.config_uri, arguments.overrides)
    audit(arguments.config_uri, configured)
    return COMMANDS[arguments.command](arguments, configured, output)


def output_for(as_json: bool) -> Output:
    """Tables, or JSON lines. Tables need rich, which the extra ``cli`` installs."""
    if as_json:
        return Lines()
    try:
        from .tables import Tables
    except ImportError:
        raise CommandError(
            'tables need rich: pip install "pyramid_altsession[cli]", or use --json'
        ) from None
    return Tables()


def audit(uri: str, configured: Configured) -> None:
    """If events are logged, the tool logs them where the application does. Nothing else is logged,
    because a command itself prints what goes wrong.
    """
    if configured.settings.log_events:
        try:
            plaster.setup_logging(uri, dict(configured.variables))
        except plaster.PlasterError:  # a file without logging sections
            pass
        except Exception as error:  # of the parser, or of a handler that the application names
            fault = f"logging cannot be set up as its sections say ({type(error).__name__})"
            raise CommandError(f"{uri}: {fault}") from None
    log = logging.getLogger("pyramid_altsession")
    if not log.handlers:
        log.addHandler(logging.NullHandler())
