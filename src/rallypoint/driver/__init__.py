"""The only loop, and the hands of the core. ``run`` is the way in."""

from rallypoint.driver.run import run, serve_store

__all__ = ["run", "serve_store"]
