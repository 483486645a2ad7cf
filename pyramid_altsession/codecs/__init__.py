"""Values <-> bytes: JSON, JSON with tags for more types, and either of them sealed."""

from .plain import MAX_DEPTH, JSONCodec
from .sealed import EncryptedCodec, encrypted
from .tagged import RichCodec, rich

__all__ = ["MAX_DEPTH", "EncryptedCodec", "JSONCodec", "RichCodec", "encrypted", "rich"]
