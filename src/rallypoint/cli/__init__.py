"""Command lines: arguments and environment in, exit status out."""
