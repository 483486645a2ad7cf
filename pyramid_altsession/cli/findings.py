"""What the doctor says of one thing."""

from typing import NamedTuple

OK, WARNING, ERROR = "ok", "warning", "error"


class Finding(NamedTuple):
    """``advice``: what to do, where it is not well. ``node``: the server that it
    is about, where there are several."""

    check: str
    level: str
    found: str
    advice: str = ""
    node: str = ""
