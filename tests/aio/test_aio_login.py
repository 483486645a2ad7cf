"""tests/*/test_login.py, with the awaitable session in the place of the plain one."""

import test_login as original
from test_login import *  # noqa: F403
from twin import store, twin  # noqa: F401

ORIGINAL = original
