"""Everything heavy that a job needs, imported and nothing more: a preloader process forks its jobs from here.

Never run an op and never list devices in this module: TensorFlow's threads do not survive a fork, and a child
that inherits a started runtime hangs at its first op (tensorflow issue 8220).
"""

# ruff: noqa: F401 - imported for their side effect
from __future__ import annotations

import gc

from services.worker.training import environment

environment.quiet()
with environment.without_banners():
    import keras
    import tensorboard.plugins.histogram.summary_v2
    import tensorboard.plugins.hparams.summary
    import tensorboard.plugins.hparams.summary_v2
    import tensorboard.plugins.scalar.summary_v2
    import tensorflow as tf

    from services.worker.training import run

# What is loaded by now lives as long as the process. Out of the collector's sight it is neither walked while a job
# traces its steps (0.3 s of a start of 1 s) nor touched and so copied in each child.
gc.collect()
gc.freeze()
