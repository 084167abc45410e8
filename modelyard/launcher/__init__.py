"""Runs the whole platform on one machine, in the foreground: what ``modelyard up`` does.

Modules: ``options`` (what was asked for), ``guard`` (refusals before anything starts), ``broker`` and ``parts`` (which
processes, with which settings), ``child`` (one process), ``supervisor`` (starts, restarts and stops all of them),
``state`` (the file that says what runs), ``up`` (puts it together). Nothing here knows what the parts do.
"""
