"""What ``request.session`` costs over ``request.altsession``, as ratios taken in one run.

    make bench            all of it
    python benchmarks/sync.py --rounds 5

As in run.py: one CPU, interleaved rounds, medians. The same application answers all; each pair
does the same to the same session.
"""

from common import Calls, application, at, caller, medians, one_cpu, options
from pyramid.request import Request
from pyramid.response import Response

from pyramid_altsession import ISessionAPI

BAR = 1.3
"""What a request that only writes may cost through request.session, in writes of
request.altsession's."""


def untouched(request: Request) -> Response:
    return Response("ok")


def written(request: Request) -> Response:
    request.altsession.set("seen", 1)
    return Response("ok")


def written_in_sync(request: Request) -> Response:
    request.session["seen"] = 1
    return Response("ok")


def read(request: Request) -> Response:
    return Response(str(request.altsession.get("cart")))


def read_in_sync(request: Request) -> Response:
    return Response(str(request.session["cart"]))


def changed(request: Request) -> Response:
    cart = request.altsession.get("cart")
    cart[0] += 1
    request.altsession.set("cart", cart)
    return Response("ok")


def changed_in_sync(request: Request) -> Response:
    request.session["cart"][0] += 1
    return Response("ok")


VIEWS = [untouched, written, written_in_sync, read, read_in_sync, changed, changed_in_sync]


def main() -> None:
    given = options(__doc__)
    with one_cpu() as path:
        settings = at(path) | {"altsession.sync.enabled": "true"}
        apps = {view.__name__: application(view, settings) for view in VIEWS}
        api = apps["read"].registry.getUtility(ISessionAPI)
        cookie = f"sid={api.create({'cart': [1, 2, 3]}).token}"
        report({name: caller(app, cookie) for name, app in apps.items()}, given.rounds, given.times)


def report(calls: Calls, rounds: int, times: int) -> None:
    median = medians(calls, rounds, times)
    print(f"{'':12} {'altsession, µs':>16} {'session, µs':>16} {'ratio':>8}")
    print(f"{'untouched':12} {median['untouched'] * 1e6:16.1f}")
    for name in ("written", "read", "changed"):
        plain, sync = median[name], median[f"{name}_in_sync"]
        print(f"{name:12} {plain * 1e6:16.1f} {sync * 1e6:16.1f} {sync / plain:8.3f}")
    ratio = median["written_in_sync"] / median["written"]
    print(f"a request that only writes: {ratio:.3f}, and {BAR} is allowed")
    assert ratio <= BAR, ratio


if __name__ == "__main__":
    main()
