"""The error that ends a command with one line."""


class CommandError(Exception):
    """A message for the operator: one line, without a secret."""
