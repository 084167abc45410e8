"""Settings, read once at an entrypoint from ``MODELYARD_*`` variables and handed down."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from shared.home import Home
from shared.keys import RATE_PATTERN, Role, prefix_of
from shared.logs import LogFormat
from shared.names import NAME_PATTERN
from shared.secret_files import FilesNamedInEnvironment, with_password

DEFAULT_QUEUE = "modelyard"
DEFAULT_JOB_QUEUE = "default"  # what a job that names no queue waits in
RUN_JOB_TASK = "modelyard.run_job"


class Settings(BaseSettings):
    """All settings of all processes; each reads those it needs.

    No module below an entrypoint looks at the environment. Each may be given as a file's text: ``MODELYARD_X_FILE``.
    """

    model_config = SettingsConfigDict(env_prefix="MODELYARD_", extra="ignore", frozen=True)

    home: Path = Field(Path(".modelyard"), description="Folder that holds everything; see shared/home.py.")
    database_url: str | None = Field(
        None, description="SQLAlchemy URL of the store. Default: SQLite in the home folder."
    )
    database_password: str | None = Field(
        None, repr=False, description="Put into database_url; for a password that comes as a file."
    )
    broker_url: str = Field(
        "redis://127.0.0.1:6379/0", description="Redis or Valkey URL for Celery; carries job ids only."
    )
    broker_password: str | None = Field(None, repr=False, description="Put into broker_url likewise.")
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
    admin_key: SecretStr | None = Field(
        None,
        description="An admin's API key, made with `modelyard keys generate`; it is stored hashed when the API starts, "
        "and replaces the one given here before. Default: keys are made with `modelyard keys create`.",
    )
    launcher_key: SecretStr | None = Field(
        None, description="Set by `modelyard up` for its own look at the API; new at each start."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names the API may be called by, separated by white space: the Host header must be one of them. "
        "Default: any; while there is no key, those of this machine's loopback only.",
    )
    trusted_proxies: str = Field(
        "",
        description="Addresses or networks of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are "
        "believed, separated by commas. Default: none.",
    )
    rate_limits: Annotated[dict[Role, str], NoDecode] = Field(
        {Role.DEVELOPER: "1200/minute", Role.VIEWER: "1200/minute", Role.PREDICTOR: "600/minute"},
        description="Requests of one key other than predictions, by role, separated by white space: "
        "viewer=600/minute. A key may have its own. Roles left out have no limit.",
    )
    predict_rate_limits: Annotated[dict[Role, str], NoDecode] = Field(
        {}, description="Predictions of one key, by role, as rate_limits. Default: no limit."
    )
    role_max_body_mb: Annotated[dict[Role, int], NoDecode] = Field(
        {},
        description="Largest body, uploads included, by role, in MiB: predictor=8. Default: max_body_mb for all.",
    )
    session_hours: float = Field(12.0, gt=0, le=720, description="How long a browser stays logged in.")
    slots: int = Field(1, ge=1, le=64, description="Jobs a worker runs at once.")
    queues: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Queues whose jobs a worker takes, separated by commas or white space. Default: default, cpu, and "
        "gpu where it sees an NVIDIA GPU.",
    )
    lease_seconds: float = Field(
        30.0, gt=0, description="A running job not heard of for so long is run again."
    )
    heartbeat_seconds: float = Field(5.0, gt=0, description="How often a supervisor renews its lease.")
    sweep_seconds: float = Field(2.0, gt=0, description="How often lost and unsent jobs are looked for.")
    grace_seconds: float = Field(30.0, ge=0, description="Time a trainer has to checkpoint after SIGTERM.")
    gang_wait_seconds: float = Field(
        60.0,
        gt=0,
        description="How long a job that needs several workers keeps a slot waiting for the others, the first time; "
        "each time in vain doubles it.",
    )
    advertise_host: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$",
        max_length=253,
        description="Name or IPv4 address at which other workers reach this one, for jobs of several workers. Default: "
        "the address from which it reaches the broker.",
    )
    cluster_ports: str | None = Field(
        None,
        pattern=r"^\d{1,5}-\d{1,5}$",
        description="Ports for the members of clusters, such as 20000-20099, for firewalls. Default: any free one.",
    )
    publish_timeout_seconds: float = Field(
        120.0, gt=0, description="How long a new version may take to become AVAILABLE."
    )
    predict_timeout_seconds: float = Field(
        120.0,
        gt=0,
        description="How long a prediction may take: the first call of a large model may compile it.",
    )
    alive_file: Path | None = Field(
        None, description="A worker touches this file after each heartbeat; for a container's health check."
    )
    warm: bool = Field(True, description="Fork trainers from a process that has TensorFlow loaded.")
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port at which a worker answers Prometheus. Unset: none."
    )
    metrics_host: str = Field("127.0.0.1", description="Address of a worker's metrics port.")
    metrics_kept_seconds: float = Field(
        5.0,
        ge=0,
        le=300,
        description="How long the API keeps what it has counted in the store for GET /metrics.",
    )
    log_format: LogFormat = Field(
        "text", description="Log lines of API and workers: text, or json with job, request and worker ids."
    )
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

    @model_validator(mode="before")
    @classmethod
    def _put_passwords_in(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        filled = dict(values)
        for name in ("database", "broker"):
            password, url = values.get(f"{name}_password"), values.get(f"{name}_url")
            if password and not url:
                raise ValueError(f"{name}_password is set, but {name}_url is not")
            if password:
                filled[f"{name}_url"] = with_password(str(url), str(password))
        return filled

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then variables, then the files that variables name."""
        return init_settings, env_settings, FilesNamedInEnvironment(settings_cls)

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        return tuple(value.lower().split()) if isinstance(value, str) else value

    @field_validator("rate_limits", "predict_rate_limits", "role_max_body_mb", mode="before")
    @classmethod
    def _split_roles(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = [part.partition("=") for part in value.split()]
        if wrong := next((part for part in parts if not part[1]), None):
            raise ValueError(f"{wrong[0]!r} is not ROLE=LIMIT, such as viewer=600/minute")
        return {role: limit for role, _, limit in parts}

    @field_validator("rate_limits", "predict_rate_limits")
    @classmethod
    def _are_rates(cls, value: dict[Role, str]) -> dict[Role, str]:
        for rate in value.values():
            if not re.fullmatch(RATE_PATTERN, rate):
                raise ValueError(f"{rate!r} is not a rate such as 600/minute (second, minute, hour, day)")
        return value

    @field_validator("role_max_body_mb")
    @classmethod
    def _are_sizes(cls, value: dict[Role, int]) -> dict[Role, int]:
        if min(value.values(), default=1) < 1:
            raise ValueError("a body may have at least 1 MiB")
        return value

    @field_validator("admin_key")
    @classmethod
    def _is_a_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and prefix_of(value.get_secret_value()) is None:
            raise ValueError("that is no API key; make one with: modelyard keys generate")
        return value

    @field_validator("queues", mode="before")
    @classmethod
    def _split_queues(cls, value: object) -> object:
        found = tuple(value.replace(",", " ").split()) if isinstance(value, str) else value
        for name in found if isinstance(found, tuple) else ():
            if not re.fullmatch(NAME_PATTERN, str(name)):
                raise ValueError(f"{name!r} can't be a queue's name: 1 to 63 letters, digits, '-' or '_'")
        return found

    @property
    def alive_within(self) -> float:
        """Seconds after which a worker that was not heard of counts as gone: three missed beats in a row are no
        accident.
        """
        return 3 * self.heartbeat_seconds

    @property
    def paths(self) -> Home:
        """The home folder as absolute paths."""
        return Home(self.home.expanduser().resolve())

    @property
    def store_url(self) -> str:
        """The store's SQLAlchemy URL."""
        return self.database_url or f"sqlite:///{self.paths.database}"
