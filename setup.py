"""The compiled parts of the package; everything else is in pyproject.toml."""

from setuptools import Extension, setup

# A library of C symbols that is loaded before llama.cpp's own; Python reaches it with ctypes.
STEP_GATE = Extension(
    "proxy.worker._stepgate",
    sources=["proxy/worker/stepgate.c", "proxy/worker/breakdown.cpp"],
    extra_compile_args=[
        *("-O2", "-Wall", "-Wextra", "-fvisibility=default", "-pthread"),
        "-fexceptions",  # llama.cpp's exceptions pass through our C
    ],
    extra_link_args=["-pthread"],
    libraries=["dl"],
    language="c++",
)

# Without it the catalogue does the same in Python.
STRINGS = Extension(
    "proxy.catalog._strings",
    sources=["proxy/catalog/strings.c"],
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
)

# Put before ggml-rpc-server's own; it has nothing of Python.
HANDED = Extension(
    "proxy.fleet.rpc._handed",
    sources=["proxy/fleet/rpc/handed.c"],
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
)

setup(ext_modules=[STEP_GATE, STRINGS, HANDED])
