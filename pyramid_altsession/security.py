"""For Pyramid's security policy, CSRF protection, and views that want a fresh sign-in.

class Policy:
    def __init__(self):
        self.helper = AltSessionAuthenticationHelper()

    def authenticated_userid(self, request):
        return self.helper.authenticated_userid(request)
    …
"""

from .web.security import AltSessionAuthenticationHelper, AltSessionCSRFStoragePolicy

__all__ = ["AltSessionAuthenticationHelper", "AltSessionCSRFStoragePolicy"]
