"""Sessions in Pyramid: from the request to the answer."""
