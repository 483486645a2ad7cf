"""Every page of the shop."""

import socket

from pyramid.config import Configurator
from pyramid.httpexceptions import HTTPBadRequest, HTTPConflict, HTTPSeeOther
from pyramid.security import forget, remember
from pyramid.view import exception_view_config, forbidden_view_config, view_config
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from pyramid_altsession import ISessionAPI

from .models import Order, Product, User

PAGES = {
    "catalogue": "/",
    "cart": "/cart",
    "order": "/order",
    "sign_in": "/sign-in",
    "sign_out": "/sign-out",
    "account": "/account",
    "password": "/password",
    "end_device": "/devices/end",
    "end_others": "/devices/end-others",
}


def includeme(config: Configurator) -> None:
    for name, path in PAGES.items():
        config.add_route(name, path)
    config.scan(__name__)


def see(request, page, message=None):
    """Go on to a page, with a message for it."""
    if message is not None:
        request.session.flash(message)
    return HTTPSeeOther(request.route_url(page))


# -- goods


@view_config(route_name="catalogue", renderer="templates/catalogue.jinja2")
def catalogue(request):
    products = request.dbsession.scalars(select(Product).order_by(Product.name))
    return {
        "products": products.all(),
        "cart": request.session.get("cart", []),
        "bought": request.session.get("bought", 0),
    }


@view_config(route_name="cart", request_method="POST")
def put_into_cart(request):
    request.session.setdefault("cart", []).append(request.POST["product"])
    return see(request, "catalogue", f"{request.POST['product']} is in your cart.")


@view_config(route_name="order", request_method="POST", permission="order")
def order(request):
    """Everything in the cart, or nothing."""
    cart = request.session.pop("cart", [])
    for name in cart:
        product = request.dbsession.get(Product, name)
        request.dbsession.add(Order(user_name=request.identity.name, product_name=name))
        product.stock -= 1
    ask_warehouse(request, cart)
    request.session["bought"] = request.session.get("bought", 0) + len(cart)
    request.dbsession.flush()  # what the database refuses, an exception view can show
    return see(request, "catalogue", "Thank you.")


def ask_warehouse(request, cart):
    """Whether all of it lies on the shelf. The answer may take a while."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(request.registry.settings["shop.warehouse"])
        line.sendall(f"{request.identity.name}: {', '.join(cart)}\n".encode())
        if line.recv(16) != b"yes\n":
            raise HTTPConflict("not on the shelf")


@exception_view_config(IntegrityError, renderer="templates/message.jinja2")
def sold_out(request):
    request.response.status = 409
    return {"message": "Somebody was faster: that is sold out. Your cart is as it was."}


# -- signing in


@forbidden_view_config()
def not_signed_in(request):
    return see(request, "sign_in")


@view_config(route_name="sign_in", request_method="GET", renderer="templates/sign_in.jinja2")
def sign_in_form(request):
    return {}


@view_config(route_name="sign_in", request_method="POST")
def sign_in(request):
    user = request.dbsession.get(User, request.POST["name"])
    if user is None or not user.has_password(request.POST["password"]):
        return see(request, "sign_in", "Name or password is wrong.")
    remember(request, user.name, info={"device": (request.user_agent or "")[:200]})
    return see(request, "account", f"Welcome, {user.name}.")


@view_config(route_name="sign_out", request_method="POST")
def sign_out(request):
    forget(request)
    return see(request, "catalogue")


# -- the account


def sessions(request):
    return request.registry.getUtility(ISessionAPI)


@view_config(route_name="account", permission="account", renderer="templates/account.jinja2")
def account(request):
    devices = sessions(request).sessions_of(request.identity.name)
    return {"user": request.identity, "devices": devices}


@view_config(route_name="end_device", request_method="POST", permission="account")
def end_device(request):
    """One of the user's own, whatever id the form names."""
    name = request.identity.name
    if not sessions(request).invalidate_id(request.POST["device"], userid=name):
        raise HTTPBadRequest("no device of yours")
    return see(request, "account", "The device is signed out.")


@view_config(route_name="end_others", request_method="POST", permission="account")
def end_others(request):
    count = request.altsession.end_others()
    return see(request, "account", f"{count} signed out.")


@view_config(route_name="password", request_method="POST", permission="account")
def change_password(request):
    """The other devices are signed out once the new password is in the database: from then on the
    old one signs nobody in. Not in a hook of the commit's: its errors are seen by nobody."""
    user = request.identity
    if not user.has_password(request.POST["old"]):
        return see(request, "account", "That is not your password.")
    user.set_password(request.POST["new"])
    request.tm.commit()
    request.tm.begin()
    request.altsession.end_others()
    return see(request, "account", "Your password is changed.")
