"""tests/*/test_keys.py, with the awaitable session in the place of the plain one."""

import test_keys as original
from test_keys import *  # noqa: F403
from twin import store, twin  # noqa: F401

ORIGINAL = original
