"""``python -m shared.store upgrade``: make or update the tables of the configured store."""

from __future__ import annotations

import sys

from shared.errors import ModelyardError
from shared.settings import Settings
from shared.store.migrate import current_revision, head_revision, migrate


def main(arguments: list[str]) -> int:
    """Run one command; exit codes: 0 done, 1 failed, 2 wrong usage."""
    if arguments not in (["upgrade"], ["check"]):
        sys.stderr.write("usage: python -m shared.store upgrade|check\n")
        return 2
    settings = Settings()
    try:
        if arguments == ["upgrade"]:
            migrate(settings.store_url)
        found, wanted = current_revision(settings.store_url), head_revision()
    except ModelyardError as error:
        sys.stderr.write(f"{error.message} {error.hint or ''}\n")
        return 1
    sys.stdout.write(f"store at revision {found or 'none'}, code at {wanted}\n")
    return 0 if found == wanted else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
