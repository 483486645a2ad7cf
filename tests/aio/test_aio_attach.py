"""tests/*/test_attach.py, with the awaitable session in the place of the plain one."""

import test_attach as original
from test_attach import *  # noqa: F403
from twin import store, twin  # noqa: F401

ORIGINAL = original
