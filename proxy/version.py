"""Which version of moe-proxy this is."""

from importlib.metadata import PackageNotFoundError, version


def own_version() -> str | None:
    """None where it was never installed, but runs from a folder of sources."""
    try:
        return version("moe-proxy")
    except PackageNotFoundError:
        return None
