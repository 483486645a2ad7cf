"""Values that are sealed on their way to the server."""

import hmac
import secrets
from typing import Any

from pyramid.exceptions import ConfigurationError

from ..config.table import SessionSettings
from ..interfaces import Codec
from .plain import JSONCodec

_SEALED = b"\x01"
"""The first byte of a sealed value, which says how it is sealed."""
_NONCE_BYTES = 12


class EncryptedCodec:
    """Values of another codec (JSON), sealed with AES-256-GCM; see :func:`encrypted`.

    The secret and the session's id make the key, and the field's name is associated data, so a
    value that is moved to another session or key cannot be opened. A sealed value is 29 bytes
    longer.
    """

    def __init__(self, codec_secrets: tuple[str, ...], values: Codec | None = None) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise ConfigurationError(
                "altsession.session.codec: the encrypted codec needs the library cryptography;"
                ' pip install "pyramid_altsession[encryption]"'
            ) from error
        self._values: Codec = values or JSONCodec()
        self._cipher = AESGCM
        self._invalid = InvalidTag
        self._secrets = tuple([secret.encode() for secret in codec_secrets])

    def encode(self, key: str, value: Any) -> bytes:
        return self._values.encode(key, value)

    def decode(self, key: str, raw: bytes) -> Any:
        return self._values.decode(key, raw)

    def seal(self, id: str, key: str, plain: bytes) -> bytes:
        """Under the first secret."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return _SEALED + nonce + self._key(self._secrets[0], id).encrypt(nonce, plain, key.encode())

    def unseal(self, id: str, key: str, sealed: bytes) -> bytes | None:
        """Under any of the secrets."""
        nonce, text = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        if sealed[:1] != _SEALED or len(nonce) < _NONCE_BYTES:
            return None
        for secret in self._secrets:
            try:
                return self._key(secret, id).decrypt(nonce, text, key.encode())
            except self._invalid:
                continue
        return None

    def _key(self, secret: bytes, id: str) -> Any:
        # One key for each session, so that two random nonces are never likely to be equal under one
        # key.
        return self._cipher(hmac.digest(secret, b"pyramid_altsession\0" + id.encode(), "sha256"))


def encrypted(settings: SessionSettings) -> EncryptedCodec:
    """``altsession.session.codec = pyramid_altsession.codecs.encrypted``: values are sealed.

    ``session.codec_secret`` has one secret or several: the first one seals, all of them open. Keep
    an old secret for as long as sessions last that were written with it. The server sees key names,
    user ids, and the lengths and ends of values. Anybody who can write to the server can remove
    values, put back older ones of the same session and key, and change their ends.
    """
    if not settings.codec_secret:
        raise ConfigurationError(
            "altsession.session.codec_secret: the encrypted codec wants one or several secrets of"
            " at least 16 characters, and none is given"
        )
    return EncryptedCodec(settings.codec_secret)
