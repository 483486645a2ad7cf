"""Sessions for asyncio: the calls of the plain ones, awaited.

``import pyramid_altsession`` does not import this package.
"""
