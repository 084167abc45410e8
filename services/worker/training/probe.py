"""Says what devices TensorFlow finds on this machine. Runs in a child of its own and ends with it."""

from __future__ import annotations

import json
import os
import platform


def report(writer: int) -> None:
    """Write one JSON object to the file descriptor ``writer`` and close it."""
    import keras
    import tensorflow as tf

    devices = []
    for device in tf.config.list_physical_devices():
        details = tf.config.experimental.get_device_details(device) or {}
        devices.append({"name": device.name, "type": device.device_type, "model": details.get("device_name")})
    data = {
        "devices": devices,
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "built_with_cuda": bool(tf.test.is_built_with_cuda()),
        "cpus": os.cpu_count(),
    }
    with os.fdopen(writer, "w") as out:
        json.dump(data, out)
