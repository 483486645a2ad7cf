"""A script: ``get`` in greenlets under monkey-patching, with timeouts at random points.

Arguments: the server's url, the limit of connections, how many calls. Prints JSON.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import random  # noqa: E402
import sys  # noqa: E402
from collections import Counter  # noqa: E402

import gevent  # noqa: E402
from gevent.pool import Pool  # noqa: E402
from workers import api_at, known_values, places  # noqa: E402

GREENLETS = 8


def main(url: str, limit: int, calls: int) -> None:
    api = api_at(url, redis__max_connections=limit, redis__timeout=10)
    held = known_values(api)
    rng = random.Random(1)
    seen: Counter[str] = Counter()

    def visit(times: int) -> None:
        for _ in range(times):
            token, key, expected = rng.choice(held)
            try:
                with gevent.Timeout(rng.uniform(0, 4e-3)):
                    value = api.open(token).get(key)
            except gevent.Timeout:
                seen["interrupted"] += 1
            except Exception as error:
                seen[type(error).__name__] += 1
            else:
                seen["right" if value == expected else "wrong"] += 1

    pool = Pool(GREENLETS)
    for _ in range(GREENLETS):
        pool.spawn(visit, calls // GREENLETS)
    pool.join(raise_error=True)
    print(json.dumps({"seen": seen, "places": places(api)}))


main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
