"""NUMA binding: see ``binding``."""

from rallypoint.elastic.numa.binding import AffinityMode, NumaOptions

__all__ = ["AffinityMode", "NumaOptions"]
