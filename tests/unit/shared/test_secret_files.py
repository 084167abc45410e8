"""Settings whose values come as files."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.secret_files import with_password
from shared.settings import Settings


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("s3:cr/et@%\n")
    return file


def test_passwords_from_files_get_into_the_addresses(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_DATABASE_URL", "postgresql://modelyard@db:5432/modelyard?sslmode=require")
    monkeypatch.setenv("MODELYARD_DATABASE_PASSWORD_FILE", str(secret))
    monkeypatch.setenv("MODELYARD_BROKER_URL", "redis://redis:6379/0")
    monkeypatch.setenv("MODELYARD_BROKER_PASSWORD_FILE", str(secret))
    settings = Settings()
    assert settings.store_url == "postgresql://modelyard:s3%3Acr%2Fet%40%25@db:5432/modelyard?sslmode=require"
    assert settings.broker_url == "redis://:s3%3Acr%2Fet%40%25@redis:6379/0"
    assert "s3:cr" not in repr(settings)


def test_any_setting_may_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "url"
    file.write_text("http://models:8501\n")
    monkeypatch.setenv("MODELYARD_SERVING_URL_FILE", str(file))
    assert Settings().serving_url == "http://models:8501"


def test_both_ways_at_once_are_refused(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_LOG_LEVEL", "INFO")
    monkeypatch.setenv("MODELYARD_LOG_LEVEL_FILE", str(secret))
    with pytest.raises(ValueError, match="both set"):
        Settings()


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_BROKER_PASSWORD_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"MODELYARD_BROKER_PASSWORD_FILE=.*nowhere can't be read"):
        Settings()


def test_a_password_needs_an_address(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_DATABASE_PASSWORD_FILE", str(secret))
    with pytest.raises(ValidationError, match="database_url is not"):
        Settings()


@pytest.mark.parametrize(
    ("url", "filled"),
    [
        ("redis://h/0", "redis://:p@h/0"),
        ("redis://:old@h:1/0", "redis://:p@h:1/0"),
        ("postgresql://u@[::1]:5/d", "postgresql://u:p@[::1]:5/d"),
    ],
)
def test_a_password_takes_the_place_of_another(url: str, filled: str) -> None:
    assert with_password(url, "p") == filled


def test_an_address_without_a_host_takes_no_password() -> None:
    with pytest.raises(ValueError, match="no host"):
        with_password("sqlite:////tmp/x.db", "p")
