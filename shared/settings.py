"""Settings, read once at an entrypoint from ``MODELYARD_*`` variables and handed down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.home import Home

DEFAULT_QUEUE = "modelyard"
RUN_JOB_TASK = "modelyard.run_job"


class Settings(BaseSettings):
    """All settings of all processes; each reads those it needs.

    No module below an entrypoint looks at the environment.
    """

    model_config = SettingsConfigDict(env_prefix="MODELYARD_", extra="ignore", frozen=True)

    home: Path = Field(Path(".modelyard"), description="Folder that holds everything; see shared/home.py.")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the store. Default: SQLite in the home folder."
    )
    broker_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Redis or Valkey URL for Celery; carries job ids only."
    )
    serving_url: str = Field("http://127.0.0.1:8501", description="Model server's REST address.")
    serving_finds_models: bool = Field(
        False,
        description="The model server looks for models in a folder, as ours with --models_dir does: models.config then "
        "lists only those of which more than the newest version is wanted.",
    )
    serving_models_dir: Path | None = Field(
        None, description="The models folder as the model server sees it. Default: the same as here."
    )
    tensorboard_url: str | None = Field(
        None, description="TensorBoard's address; it is served below /tensorboard/. Unset: not offered."
    )
    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port the API listens on.")
    api_processes: int = Field(
        1,
        ge=1,
        le=64,
        description="API processes that share the port; more than one where predictions fill a core.",
    )
    share_port: bool = Field(False, description="Set by the API for the processes that it starts itself.")
    max_body_mb: int = Field(64, ge=1, description="Largest JSON or image body, in MiB (2**20 bytes).")
    max_upload_mb: int = Field(20_480, ge=1, description="Largest dataset upload, in MiB.")
    allowed_paths: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders whose files a job may name by path, separated by ':'. Default: none."
    )
    code_dirs: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Folders with builders of your own (docs/user-code.md), separated by ':'. Default: none.",
    )
    trusted_model_paths: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Folders whose SavedModels may be loaded for fine-tuning, separated by ':'. Loading one runs its "
        "operations. Default: none.",
    )
    allowed_urls: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Beginnings of addresses that datasets may be fetched from, separated by white space: "
        "https://data.example.org/sets/. Default: none.",
    )
    allow_private_urls: bool = Field(
        False, description="Fetch from loopback and private addresses too, where allowed_urls has them."
    )
    slots: int = Field(1, ge=1, le=64, description="Jobs a worker runs at once.")
    lease_seconds: float = Field(
        30.0, gt=0, description="A running job not heard of for so long is run again."
    )
    heartbeat_seconds: float = Field(5.0, gt=0, description="How often a supervisor renews its lease.")
    sweep_seconds: float = Field(2.0, gt=0, description="How often lost and unsent jobs are looked for.")
    grace_seconds: float = Field(30.0, ge=0, description="Time a trainer has to checkpoint after SIGTERM.")
    publish_timeout_seconds: float = Field(
        120.0, gt=0, description="How long a new version may take to become AVAILABLE."
    )
    predict_timeout_seconds: float = Field(
        120.0,
        gt=0,
        description="How long a prediction may take: the first call of a large model may compile it.",
    )
    warm: bool = Field(True, description="Fork trainers from a process that has TensorFlow loaded.")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")

    @field_validator("allowed_paths", "code_dirs", "trusted_model_paths", mode="before")
    @classmethod
    def _split_paths(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(Path(part).expanduser().resolve() for part in value.split(":") if part)
        return value

    @field_validator("allowed_urls", mode="before")
    @classmethod
    def _split_urls(cls, value: object) -> object:
        found = tuple(value.split()) if isinstance(value, str) else value
        for url in found if isinstance(found, tuple) else ():
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{url!r} does not begin with http:// or https:// and a host")
        return found

    @property
    def paths(self) -> Home:
        """The home folder as absolute paths."""
        return Home(self.home.expanduser().resolve())

    @property
    def store_url(self) -> str:
        """The store's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.paths.database}"
