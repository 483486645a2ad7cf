"""tests/*/test_login.py, with the awaitable session in the place of the plain one."""

from test_login import *  # noqa: F403
from twin import store, twin  # noqa: F401

SHARED = True
