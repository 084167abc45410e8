"""Log lines, as text for people or as JSON for machines, and what each line is about: request, job, attempt, worker.

``bound`` says what the lines of this thread or task are about from here on; threads that work for it are started with
``contextvars.copy_context().run``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Literal

LogFormat = Literal["text", "json"]
TEXT = "%(levelname)-7s %(name)s  %(message)s"
_NOTHING: Mapping[str, object] = MappingProxyType({})
_about: ContextVar[Mapping[str, object]] = ContextVar("modelyard_log_about", default=_NOTHING)


class bound:  # noqa: N801 - used like a function
    """Add ``about`` to every JSON line that is written inside a with statement; None values are left out."""

    __slots__ = ("_about", "_token")

    def __init__(self, **about: object) -> None:
        self._about = {key: value for key, value in about.items() if value is not None}

    def __enter__(self) -> None:
        before = _about.get()
        self._token = _about.set({**before, **self._about} if before else self._about)

    def __exit__(self, *_: object) -> None:
        _about.reset(self._token)


def bind(**about: object) -> None:
    """As ``bound``, to the end of this task or thread."""
    _about.set({**_about.get(), **about})


def bound_now() -> Mapping[str, object]:
    """What the lines here are about."""
    return _about.get()


def set_up(level: str, form: LogFormat, **always: object) -> None:
    """Log to standard error, as one process of a part does.

    Args:
        level: the least level that is written.
        form: ``text``, or ``json``: an object a line, with ``time`` (RFC 3339, UTC), ``level``, ``logger``,
            ``message``, ``exception``, and what the line is about.
        always: members of every JSON line, such as part="worker".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_json(always) if form == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=level, handlers=[handler])


def _json(always: Mapping[str, object]) -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    class About(JsonFormatter):
        """Adds what is bound where the line is written."""

        def add_fields(
            self, log_data: dict[str, object], record: logging.LogRecord, message_dict: dict[str, object]
        ) -> None:
            super().add_fields(log_data, record, message_dict)
            log_data.update(bound_now())

    return About(
        "%(levelname)s %(name)s %(message)s",
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
        static_fields=dict(always),
        timestamp="time",
        json_ensure_ascii=False,
    )
