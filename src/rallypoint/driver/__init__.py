"""The only loop, and the hands of the core."""
