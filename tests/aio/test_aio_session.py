"""tests/*/test_session.py, with the awaitable session in the place of the plain one."""

import test_session as original
from test_session import *  # noqa: F403
from twin import store, twin  # noqa: F401

ORIGINAL = original
