"""The names of the tweens, as an application's ``pyramid.tweens`` lists them."""

from .web.transaction import transaction_tween_factory
from .web.tween import altsession_tween_factory

__all__ = ["altsession_tween_factory", "transaction_tween_factory"]
