"""How loud loggers are."""


def get_log_level() -> str:
    """Return the level of loggers where LOGLEVEL is not set."""
    return "WARNING"
