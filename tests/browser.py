"""Headless Chromium and its driver: the machine's own, else Debian's, unpacked beside the environment."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from services.worker.training.data import apt
from tests.conftest import unavailable

PAGE_SECONDS = 60
# Without a font the page has no text. The folder's name is for its content: other packages, another folder.
PACKAGES = ("chromium", "chromium-driver", "fonts-dejavu-core")
UNPACKED = Path(sys.prefix) / "browser-1"
FONTS = """<?xml version="1.0"?>
<fontconfig><dir>{fonts}</dir><dir>/usr/share/fonts</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>
"""


@dataclass(frozen=True)
class Programs:
    browser: Path
    driver: Path
    environment: dict[str, str]


def programs() -> Programs:
    """The pair on PATH, or the unpacked one; skips or fails the test if neither can be had."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is not None and driver is not None:
        return Programs(Path(browser), Path(driver), dict(os.environ))
    if not UNPACKED.exists():
        shutil.rmtree(making := UNPACKED.with_suffix(".new"), ignore_errors=True)
        try:
            apt.unpack(PACKAGES, making, dependencies=True, seconds=600)
        except apt.NotAvailable as reason:
            unavailable(f"there is no chromium with a chromedriver here, and Debian's can't be had: {reason}")
        (making / "fonts.conf").write_text(FONTS.format(fonts=UNPACKED / "usr/share/fonts"))
        making.rename(UNPACKED)
    program = UNPACKED / "usr/lib/chromium/chromium"
    if not program.exists():
        unavailable(
            "this distribution's package chromium holds no chromium: install one and its chromedriver"
        )
    # some lie in folders of their own (pulseaudio, nss, blas)
    libraries = {library.parent for top in ("lib", "usr/lib") for library in (UNPACKED / top).rglob("*.so*")}
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join(map(str, sorted(libraries - {program.parent}))),
        "FONTCONFIG_FILE": str(UNPACKED / "fonts.conf"),
    }
    return Programs(program, UNPACKED / "usr/bin/chromedriver", environment)


@contextlib.contextmanager
def chromium(scratch: Path) -> Iterator[Chrome]:
    """A browser window; its profile lies in ``scratch``."""
    found = programs()
    options = ChromeOptions()
    options.binary_location = str(found.browser)
    for argument in (
        "--headless=new",
        "--no-sandbox",  # it needs user namespaces, which containers seldom give; the pages are our own
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--window-size=1600,1000",
        f"--user-data-dir={scratch / 'profile'}",
        "--no-first-run",
        "--disable-background-networking",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(str(found.driver), env=found.environment))
    try:
        driver.set_page_load_timeout(PAGE_SECONDS)
        driver.set_script_timeout(PAGE_SECONDS)
        yield driver
    finally:
        driver.quit()
