"""Where the server is, and the key that opens it, when the caller does not say."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import InvalidInput

DEFAULT_URL = "http://127.0.0.1:8000"


class ClientSettings(BaseSettings):
    """``MODELYARD_URL``, and ``MODELYARD_API_KEY`` or ``MODELYARD_API_KEY_FILE``."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_", extra="ignore", frozen=True)

    url: str = Field(DEFAULT_URL, description="The server's address, for the client and the command line.")
    api_key: SecretStr | None = Field(None, description="An API key.")
    api_key_file: Path | None = Field(None, description="A file that holds it.")


def default_url() -> str:
    return ClientSettings().url


def default_key() -> str | None:
    """The key that the environment gives.

    Raises:
        InvalidInput: the file that should hold it can't be read.
    """
    settings = ClientSettings()
    if settings.api_key is not None:
        return settings.api_key.get_secret_value().strip() or None
    return key_in(settings.api_key_file) if settings.api_key_file is not None else None


def key_in(file: Path) -> str:
    """The key in a file.

    Raises:
        InvalidInput: it can't be read, or holds none.
    """
    try:
        text = file.expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"The API key's file {file} can't be read: {error}.", field="api_key_file"
        ) from None
    if not text or not text.isascii() or len(text.split()) != 1:
        raise InvalidInput(f"The file {file} holds no API key.", field="api_key_file")
    return text


def key_header(key: str | None) -> dict[str, str]:
    """The header that carries a key; for None, the environment's."""
    key = key if key is not None else default_key()
    return {"Authorization": f"Bearer {key}"} if key else {}
