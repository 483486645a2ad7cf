"""What the package adds to an application's start.

python benchmarks/start.py --rounds 5
"""

import json
import statistics
import subprocess
import sys
from typing import Any

from common import options

IMPORT = """
import time
import pyramid.config, pyramid.request, redis
began = time.perf_counter()
import pyramid_altsession
print(time.perf_counter() - began)
"""
INCLUDE = """
import time
from pyramid.config import Configurator
import pyramid_altsession
def made(settings):
    began = time.perf_counter()
    config = Configurator(settings=settings)
    if settings:
        config.include("pyramid_altsession")
    config.make_wsgi_app()
    return time.perf_counter() - began
made({})
bare = made({})
print(made({"altsession.redis.url": "redis://127.0.0.1:1"}) - bare)
"""


def seconds(program: str) -> float:
    return float(subprocess.check_output([sys.executable, "-c", program], text=True))


def measured(rounds: int) -> dict[str, Any]:
    """Milliseconds, medians: of the import, where Pyramid and redis-py are there already, and of
    the include, over an application without."""
    return {
        name: statistics.median([seconds(program) for _ in range(rounds)]) * 1e3
        for name, program in {"import": IMPORT, "include": INCLUDE}.items()
    }


def main() -> None:
    print(json.dumps(measured(options(__doc__).rounds)))


if __name__ == "__main__":
    main()
