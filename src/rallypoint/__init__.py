"""Rallypoint: an elastic launcher for jobs of many processes on many machines."""

__version__ = "0.1.0"
