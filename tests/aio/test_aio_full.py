"""tests/session/test_full.py, with the awaitable session in the place of the plain one."""

import test_full as original
from test_full import *  # noqa: F403
from twin import store, twin  # noqa: F401

ORIGINAL = original
