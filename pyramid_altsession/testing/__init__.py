"""What applications use in their own tests. :doc:`testing` shows how.

WebTest is needed only by :func:`make_browser`; pytest by nothing here.
"""

from .browsers import make_browser, session_of, sign_in
from .clock import Clock, settable_clock
from .faults import delay, fail, lose_reply
from .races import RaceFound, race
from .servers import PrivateServer, private_server
from .sessions import serving, testing_altsession
from .steering import round_trips, steer

__all__ = [
    "Clock",
    "PrivateServer",
    "RaceFound",
    "delay",
    "fail",
    "lose_reply",
    "make_browser",
    "private_server",
    "race",
    "round_trips",
    "serving",
    "session_of",
    "settable_clock",
    "sign_in",
    "steer",
    "testing_altsession",
]
