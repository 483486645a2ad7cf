"""The scripts that the server runs."""

import hashlib
import re
from importlib import resources

from ...protocol.messages import Operation, Prune

SCRIPT = resources.files(__package__).joinpath("write.lua").read_bytes()
SCRIPT_SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()
PRUNE_SCRIPT = resources.files(__package__).joinpath("prune.lua").read_bytes()
REVOKE_SCRIPT = resources.files(__package__).joinpath("revoke.lua").read_bytes()
ENTER_SCRIPT = resources.files(__package__).joinpath("enter.lua").read_bytes()
CONFIRM_SCRIPT = resources.files(__package__).joinpath("confirm.lua").read_bytes()
_FORBIDDEN = re.compile(r"The user executing the script can't .* on @user_script:(\d+)")
_CALL = re.compile(rb"redis\.call\('(\w+)'")


def command_of(said: str, operation: Operation) -> str:
    """Which command of a script the server's user may not run: Redis 7.0 only tells the line."""
    at = _FORBIDDEN.match(said)
    if at is None:
        return ""
    script = PRUNE_SCRIPT if isinstance(operation, Prune) else SCRIPT
    command = _CALL.search(script.splitlines()[int(at[1]) - 1])
    return f" ({command[1].decode()})" if command else ""
