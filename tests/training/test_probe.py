"""What a worker says about its machine, as GET /workers and the doctor show it."""

from __future__ import annotations

import os

import tensorflow as tf

from services.worker.preloader import Preloader


def test_the_probe_tells_devices_build_and_cpu(preloader: Preloader) -> None:
    found = preloader.probe()
    cpu = found["devices"][0]
    assert (cpu["name"], cpu["type"]) == ("CPU:0", "CPU")
    assert cpu["memory_mb"] > 256
    assert found["logical_devices"][0]["name"] == "CPU:0"
    build = tf.sysconfig.get_build_info()
    assert (
        found["build"]["cuda"]
        == found["built_with_cuda"]
        == tf.test.is_built_with_cuda()
        == build["is_cuda_build"]
    )
    assert found["build"]["xla"] is tf.test.is_built_with_xla()
    assert found["build"]["rocm"] == build["is_rocm_build"]
    assert found["versions"]["tensorflow"] == tf.__version__
    assert found["cpu"]["cores"] == len(os.sched_getaffinity(0))
