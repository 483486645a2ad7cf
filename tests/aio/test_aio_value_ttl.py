"""tests/*/test_value_ttl.py, with the awaitable session in the place of the plain one."""

import test_value_ttl as original
from test_value_ttl import *  # noqa: F403
from twin import store, twin  # noqa: F401

ORIGINAL = original
