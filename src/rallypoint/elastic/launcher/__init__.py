"""Start elastic jobs from Python, by torch's names."""

from rallypoint.elastic.launcher.api import LaunchConfig, elastic_launch, launch_agent

__all__ = ["LaunchConfig", "elastic_launch", "launch_agent"]
