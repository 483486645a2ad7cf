"""Who a visitor is: the session knows the name, the database the user."""

from pyramid.request import RequestLocalCache

from pyramid_altsession.web.security import AltSessionAuthenticationHelper

from .models import User


class SecurityPolicy:
    def __init__(self):
        self.helper = AltSessionAuthenticationHelper()
        self.cache = RequestLocalCache(self.load)
        self.remember, self.forget = self.helper.remember, self.helper.forget

    def load(self, request):
        name = self.helper.authenticated_userid(request)
        return None if name is None else request.dbsession.get(User, name)

    def identity(self, request):
        return self.cache.get_or_create(request)

    def authenticated_userid(self, request):
        user = self.identity(request)
        return None if user is None else user.name

    def permits(self, request, context, permission):
        return self.identity(request) is not None
