"""The workers' output: from pipes to files and console."""
