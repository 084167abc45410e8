"""HTTP/1.1 for requests that must not wait: simple ones are read here, all others by uvicorn."""

from shared.wire.connection import Answer, Connection, Quick
from shared.wire.head import Head, parse_head

__all__ = ["Answer", "Connection", "Head", "Quick", "parse_head"]
