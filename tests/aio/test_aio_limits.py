"""tests/contract/test_limits.py, over awaitable stores."""

import test_limits as original
from awaited import loop  # noqa: F401
from test_aio_contract import store  # noqa: F401
from test_limits import *  # noqa: F403

ORIGINAL = original
