"""What runs inside the worker: standard library only, nothing else of Rallypoint."""
