"""The one thing that pyproject.toml cannot say for certain: an extension that may fail to build."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        # Without a compiler or Python's headers the package installs all the same and captures without it.
        Extension("siprec.media._native", ["siprec/media/_native.c"], py_limited_api=True, optional=True)
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
