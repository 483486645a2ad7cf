"""tests/*/test_batch.py, with the awaitable session in the place of the plain one."""

from test_batch import *  # noqa: F403
from twin import store, twin  # noqa: F401

SHARED = True
