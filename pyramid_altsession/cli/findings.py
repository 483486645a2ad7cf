"""A single finding of the doctor."""

from typing import NamedTuple

OK, WARNING, ERROR = "ok", "warning", "error"


class Finding(NamedTuple):
    """``advice``: what to do about it, unless it is ok. ``node``: the server that it is about, if
    there are several.
    """

    check: str
    level: str
    found: str
    advice: str = ""
    node: str = ""
