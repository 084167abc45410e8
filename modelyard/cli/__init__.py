"""The command line. ``app`` gathers the commands; each module holds those of one subject."""

from modelyard.cli.app import main

__all__ = ["main"]
