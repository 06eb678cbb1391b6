"""The exit status of ``rallyrun``: the culprit's own where there is one, else one of these."""

SUCCESS = 0
USAGE = 2
"""A wrong option or value; nothing was started."""
LAUNCHER_ERROR = 70
"""The launcher itself failed (sysexits' EX_SOFTWARE): a defect, or a machine that refuses to start processes."""
RENDEZVOUS_TIMEOUT = 75
"""Too few nodes within ``join_timeout`` (EX_TEMPFAIL: trying again may work)."""
REFUSED = 77
"""The run would not have this node: other run id, other ``--nnodes``, other version (EX_NOPERM)."""
OVERDUE = 124
"""``--success-timeout`` passed and some workers had not ended (as ``timeout(1)`` reports it)."""
SIGNAL_BASE = 128
"""128 + n: a worker, or the launcher, was ended by signal n."""
