"""Everything heavy that a job needs, imported and nothing more: a preloader process forks its jobs from here.

Never run an op and never list devices in this module: TensorFlow's threads do not survive a fork, and a child
that inherits a started runtime hangs at its first op (tensorflow issue 8220).
"""

# ruff: noqa: F401 - imported for their side effect
from __future__ import annotations

from services.worker.training import environment

environment.quiet()
with environment.without_banners():
    import keras
    import tensorboard.plugins.histogram.summary_v2
    import tensorboard.plugins.scalar.summary_v2
    import tensorflow as tf

    from services.worker.training import run
