"""tests/*/test_batch.py, with the awaitable session in the place of the plain one."""

import test_batch as original
from test_batch import *  # noqa: F403
from twin import store, twin  # noqa: F401

ORIGINAL = original
