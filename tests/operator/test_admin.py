"""``pyramid_altsession.admin``: who gets in, what is shown, what is ended."""

import re
from typing import Any

import pytest
from apps import MADE
from pyramid.config import Configurator
from pyramid.csrf import CookieCSRFStoragePolicy
from pyramid.exceptions import ConfigurationError
from pyramid.request import Request
from webtest import TestApp

from pyramid_altsession import ISessionAPI, SessionAPI
from pyramid_altsession.security import AltSessionAuthenticationHelper

PERMISSION = "end sessions"
HTTPS = {"wsgi.url_scheme": "https", "HTTP_HOST": "localhost"}
SETTINGS = {
    "altsession.redis.url": "memory://",
    "altsession.sync.enabled": "true",
    "altsession.admin_permission": PERMISSION,
}


class Policy:
    """Ann has the permission."""

    def __init__(self) -> None:
        helper = AltSessionAuthenticationHelper()
        self.authenticated_userid = self.identity = helper.authenticated_userid
        self.remember, self.forget = helper.remember, helper.forget

    def permits(self, request: Request, context: Any, permission: str) -> bool:
        return permission == PERMISSION and self.authenticated_userid(request) == "ann"


def sign_in(request: Request) -> Any:
    request.altsession.login(request.GET["name"], info={"agent": request.user_agent or "?"})
    request.altsession.set("cart", ["a value that nobody is shown"])
    return request.response


def who(request: Request) -> str:
    return str(request.authenticated_userid)


def configured(**more: object) -> Configurator:
    config = Configurator(settings=SETTINGS | more)
    config.set_security_policy(Policy())
    config.include("pyramid_altsession.admin", route_prefix="/admin/sessions")
    config.add_route("sign_in", "/sign-in")
    config.add_view(sign_in, route_name="sign_in")
    config.add_route("who", "/who")
    config.add_view(who, route_name="who", renderer="string")
    return config


class Site:
    """The application, and a browser for each of its visitors."""

    def __init__(self, config: Configurator) -> None:
        self.application = config.make_wsgi_app()
        self.api: SessionAPI = config.registry.getUtility(ISessionAPI)
        MADE.append(self.api)

    def browser(self, name: str, agent: str = "Firefox") -> TestApp:
        app = TestApp(self.application, extra_environ=HTTPS)
        app.get(f"/sign-in?name={name}", headers={"User-Agent": agent})
        return app

    def id_of(self, name: str) -> str:
        return self.api.sessions_of(name)[0].id


@pytest.fixture
def site() -> Site:
    return Site(configured())


@pytest.fixture
def ann(site: Site) -> TestApp:
    """Who may end sessions."""
    return site.browser("ann")


def found(ann: TestApp, asked: str) -> Any:
    page = ann.get("/admin/sessions/")
    page.forms[0]["q"] = asked
    return page.forms[0].submit()


# -- who gets in


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/sessions"),
        ("GET", "/admin/sessions/"),
        ("GET", "/admin/sessions/session/x"),
        ("POST", "/admin/sessions/end"),
    ],
)
def test_without_the_permission(method: str, path: str, site: Site) -> None:
    """Everybody else gets 403, signed in or not."""
    bob = site.browser("bob")
    nobody = TestApp(site.application, extra_environ=HTTPS)
    for app in (bob, nobody):
        assert app.request(path, method=method, expect_errors=True).status_int == 403
    assert len(site.api.sessions_of("bob")) == 1


@pytest.mark.parametrize("permission", ["", "__no_permission_required__"])
def test_no_permission(permission: str) -> None:
    """The application does not start without a permission that means something."""
    with pytest.raises(ConfigurationError, match=r"altsession\.admin_permission"):
        configured(**{"altsession.admin_permission": permission})


def test_no_prefix() -> None:
    """Nor without a prefix."""
    config = Configurator(settings=SETTINGS)
    with pytest.raises(ConfigurationError, match="route_prefix"):
        config.include("pyramid_altsession.admin")


def test_no_policy() -> None:
    """Nor where nobody judges permissions: Pyramid would let everybody in."""
    config = Configurator(settings=SETTINGS)
    config.include("pyramid_altsession.admin", route_prefix="/admin")
    with pytest.raises(ConfigurationError, match="no security policy"):
        config.make_wsgi_app()


def test_no_place_for_csrf_tokens() -> None:
    """Nor where CSRF tokens would have no place; another storage policy is one."""
    config = configured(**{"altsession.sync.enabled": "false"})
    with pytest.raises(ConfigurationError, match="CSRF tokens"):
        config.make_wsgi_app()
    config = configured(**{"altsession.sync.enabled": "false"})
    config.set_csrf_storage_policy(CookieCSRFStoragePolicy())
    site = Site(config)
    assert site.browser("ann").get("/admin/sessions/").status_int == 200


def test_address_without_a_slash(ann: TestApp) -> None:
    """The prefix itself, as people type it, leads to the page."""
    page = ann.get("/admin/sessions?q=ann").follow()
    assert page.request.path_qs == "/admin/sessions/?q=ann"


# -- what is shown


def test_by_user(site: Site, ann: TestApp) -> None:
    """A user's sessions, with device and size."""
    site.browser("bob", "Opera")
    page = found(ann, "bob")
    assert site.id_of("bob") in page.text
    assert ">Opera</td>" in page.text
    assert site.id_of("ann") not in page.text
    assert re.search(r' class="number">\d+</td>', page.text)


def ids_in(page: Any) -> list[str]:
    """Those of the sessions that are listed."""
    return re.findall(r"<code>([^<]+)</code></a>", page.text)


def test_blanks_around_a_name(site: Site, ann: TestApp) -> None:
    """They may have been copied with it; but a user whose name has them is the one meant."""
    for name in ("bob", " eve ", "eve"):
        site.api.create({"cart": 1}).login(name)
    assert ids_in(found(ann, " bob\t")) == [site.id_of("bob")]
    assert ids_in(found(ann, " eve ")) == [site.id_of(" eve ")]
    assert ids_in(found(ann, f" {site.id_of('eve')} ")) == [site.id_of("eve")]
    assert ids_in(found(ann, "  ")) == []


@pytest.mark.parametrize("name", ["a\nb", "a\r\nb\n", "100%25", "zoë/+ &"])
def test_any_name(name: str, site: Site, ann: TestApp) -> None:
    """A name is any text, and the form that ends its sessions names exactly this user."""
    for each in (name, "a b", "100%"):
        site.api.create({"cart": 1}).login(each)
    page = ann.get("/admin/sessions/", {"q": name})
    assert ids_in(page) == [site.id_of(name)]
    form = page.forms[2]
    sent = form["user"].value
    form["user"].force_value(re.sub("\r\n|\r|\n", "\r\n", sent))  # as browsers do
    assert "1 session was ended." in form.submit().follow().text
    assert site.api.sessions_of(name) == []


def test_by_id(site: Site, ann: TestApp) -> None:
    """A session without a user is found by its id; one's own is marked."""
    id = site.api.create({"cart": 1}).id or ""
    page = found(ann, id)
    assert id in page.text
    assert "End all sessions of" not in page.text
    assert "(yours)" in found(ann, "ann").text


def test_nobody(ann: TestApp) -> None:
    """A name that has no session."""
    assert "There is no session of a user" in found(ann, "nobody").text
    ann.get("/admin/sessions/session/nobody", status=404)


def test_keys_without_values(site: Site, ann: TestApp) -> None:
    """Names and sizes of keys, and what the sign-in noted; no value and no token."""
    bob = site.browser("bob")
    page = found(ann, "bob").click(site.id_of("bob"))
    assert "<code>cart</code>" in page.text
    assert "<dd>Firefox</dd>" in page.text
    for text in (page.text, found(ann, "bob").text):
        assert "a value that nobody is shown" not in text
        assert bob.cookies["sid"].partition(".")[2] not in text


def test_session_without_keys(site: Site, ann: TestApp) -> None:
    """One that holds nothing, and is nobody's."""
    session = site.api.create({"k": 1})
    session.remove("k")
    page = ann.get(f"/admin/sessions/session/{session.id}")
    assert "<dd>not signed in</dd>" in page.text
    assert ">none</td>" in page.text


def test_what_visitors_say_is_text(site: Site, ann: TestApp) -> None:
    """A user agent, a name or a key with HTML in it is shown as it is."""
    bob = site.browser("bob", "<script>alert(1)</script>")
    assert bob.get("/who").text == "bob"
    session = site.api.create({"<b>key</b>": 1})
    for page in (found(ann, "bob"), ann.get(f"/admin/sessions/session/{session.id}")):
        assert "<script>" not in page.text
        assert "<b>" not in page.text
    assert "<i>" not in found(ann, "<i>").text


def test_pages_are_not_kept(ann: TestApp) -> None:
    """No cache keeps what only some may see."""
    assert "no-store" in ann.get("/admin/sessions/").headers["Cache-Control"]


def test_pages_are_in_no_frame(site: Site, ann: TestApp) -> None:
    """Nobody can lay a page over the buttons."""
    for path in ("", f"session/{site.id_of('ann')}"):
        assert ann.get(f"/admin/sessions/{path}").headers["X-Frame-Options"] == "DENY"


def test_style(ann: TestApp) -> None:
    """The style is a file of its own: a content security policy needs no exception."""
    page = ann.get("/admin/sessions/")
    (href,) = re.findall(r'rel="stylesheet" href="([^"]+)"', page.text)
    assert "prefers-color-scheme: dark" in ann.get(href).text
    assert not re.search(r"<script|<style| style=| on\w+=", page.text)


# -- what is ended


def submit(page: Any, button: str) -> Any:
    """The form with this button."""
    (form,) = [form for form in page.forms.values() if button in form.text]
    return form.submit()


def test_end_one(site: Site, ann: TestApp) -> None:
    """The other browser is signed out at its next request."""
    bob, other = site.browser("bob"), site.browser("bob", "Opera")
    page = found(ann, other.cookies["sid"].partition(".")[0])
    done = submit(page, ">End<").follow()
    assert "1 session was ended." in done.text
    assert (bob.get("/who").text, other.get("/who").text) == ("bob", "None")


def test_end_all_of_a_user(site: Site, ann: TestApp) -> None:
    """All sessions of one user, and no other."""
    browsers = [site.browser("bob"), site.browser("bob"), site.browser("eve")]
    done = submit(found(ann, "bob"), "End all sessions of bob").follow()
    assert "2 sessions were ended." in done.text
    assert [app.get("/who").text for app in browsers] == ["None", "None", "eve"]


def test_end_every_session(site: Site, ann: TestApp) -> None:
    """Only with the box ticked; one's own too."""
    bob = site.browser("bob")
    page = ann.get("/admin/sessions/")
    assert submit_expecting(page, "End every session", 400)
    assert bob.get("/who").text == "bob"
    page.forms[1]["sure"] = True
    assert submit(page, "End every session").location.endswith("?ended=2")
    assert (bob.get("/who").text, ann.get("/who").text) == ("None", "None")


def submit_expecting(page: Any, button: str, status: int) -> Any:
    (form,) = [form for form in page.forms.values() if button in form.text]
    return form.submit(status=status)


@pytest.mark.parametrize("token", [None, "guessed"])
@pytest.mark.parametrize("default", [True, False])
def test_forged_form(token: str | None, default: bool) -> None:
    """A form without the token of the session is refused, whatever the application's own options
    for CSRF are."""
    config = configured()
    config.set_default_csrf_options(require_csrf=default, callback=lambda request: False)
    site = Site(config)
    ann = site.browser("ann")
    bob = site.browser("bob")
    fields = {"user": "bob"} | ({"csrf_token": token} if token else {})
    ours = {"Origin": "https://localhost"}
    ann.post("/admin/sessions/end", fields, headers=ours, status=400)
    assert bob.get("/who").text == "bob"


def test_form_of_another_site(site: Site, ann: TestApp) -> None:
    """So is one whose browser says that it comes from elsewhere."""
    token = found(ann, "ann").forms[1]["csrf_token"].value
    headers = {"Origin": "https://elsewhere.example"}
    ann.post(
        "/admin/sessions/end", {"user": "ann", "csrf_token": token}, headers=headers, status=400
    )
    assert ann.get("/who").text == "ann"


def test_number_in_the_address(ann: TestApp) -> None:
    """What the address says was ended is a number or nothing."""
    assert "were ended" not in ann.get("/admin/sessions/?ended=many").text
    assert "were ended" not in ann.get("/admin/sessions/?ended=%C2%B2").text
    assert "were ended" not in ann.get(f"/admin/sessions/?ended={'9' * 5000}").text


@pytest.mark.parametrize("address", ["?q=%ff", "/?q=%ff", "/?ended=%ff"])
def test_address_that_cannot_be_read(address: str, ann: TestApp) -> None:
    """What is no UTF-8 in an address is 400."""
    ann.get(f"/admin/sessions{address}", status=400)
