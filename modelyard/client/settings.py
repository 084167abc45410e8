"""Where the server is, when the caller does not say."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_URL = "http://127.0.0.1:8000"


class ClientSettings(BaseSettings):
    """``MODELYARD_URL``."""

    model_config = SettingsConfigDict(env_prefix="MODELYARD_", extra="ignore", frozen=True)

    url: str = Field(DEFAULT_URL, description="The server's address, for the client and the command line.")


def default_url() -> str:
    return ClientSettings().url
