"""Settings from files: ``MODELYARD_X_FILE=/run/secrets/x`` is ``MODELYARD_X`` with the file's text.

Containers get passwords as files, so that they are in no environment that ``docker inspect`` or a crash report shows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

SUFFIX = "_FILE"


class FilesNamedInEnvironment(PydanticBaseSettingsSource):
    """Reads each field's file where its variable with ``_FILE`` names one; whitespace at the ends is dropped."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self._prefix = str(settings_cls.model_config.get("env_prefix", ""))

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The text, or None.

        Raises:
            ValueError: the file can't be read, or the setting is given both ways.
        """
        variable = f"{self._prefix}{field_name.upper()}"
        name = os.environ.get(variable + SUFFIX)
        if not name:
            return None, field_name, False
        if os.environ.get(variable):
            raise ValueError(f"{variable} and {variable}{SUFFIX} are both set; leave one of them out")
        try:
            return Path(name).read_text().strip(), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{variable}{SUFFIX}={name} can't be read: {error}") from error

    def __call__(self) -> dict[str, Any]:
        """All that were found."""
        found = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
        }
        return {name: value for name, value in found.items() if value is not None}


def with_password(url: str, password: str) -> str:
    """``url`` with this password in place of any that it has.

    Raises:
        ValueError: the address has no host to log in at.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError(f"a password is given for {parts.scheme}:..., which has no host")
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{quote(password, safe='')}@{place}"))
