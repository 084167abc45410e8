"""The part of Modelyard that is compiled. All else is in pyproject.toml.

It is optional: without a C compiler or Python's headers the installation goes on without it, and the model server
reads and writes numbers with libraries, which takes three times as long.
"""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(f"services.serving.{source.stem}", [str(source)], optional=True)
        for source in sorted(Path("services/serving").glob("*.c"))
    ]
)
