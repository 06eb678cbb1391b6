"""Rallypoint: an elastic launcher for jobs of many processes on many machines."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Bring ``launch`` and its errors when they are asked for: importing the package costs nothing."""
    if name == "launch":
        from importlib import import_module

        return import_module("rallypoint.launch")  # which can be called
    if name in ("LaunchError", "StoppedError", "WorkerFailedError"):
        from rallypoint import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
