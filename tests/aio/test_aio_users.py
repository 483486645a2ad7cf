"""tests/*/test_users.py, with the awaitable session in the place of the plain one."""

import test_users as original
from test_users import *  # noqa: F403
from twin import store, twin  # noqa: F401

ORIGINAL = original
