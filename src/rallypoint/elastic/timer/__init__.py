"""Timers against stuck workers: a worker says how long something may take; if it overstays, it is killed.

Beside the workers a server runs, in the workers a client:

    queue = multiprocessing.get_context("spawn").Queue()
    LocalTimerServer(queue, max_interval=1).start()

    configure(LocalTimerClient(queue))  # in each worker
    with expires(after=60):
        work()

Before it is killed, the worker writes the stacks of its threads to its standard error. With the environment
variable TORCHELASTIC_ENABLE_FILE_TIMER=1 the launcher itself is the server, and workers use
``FileTimerClient(os.environ["TORCHELASTIC_TIMER_FILE"])``.
"""

from rallypoint.elastic.timer.api import (
    RequestQueue,
    TimerClient,
    TimerRequest,
    TimerServer,
    configure,
    expires,
)
from rallypoint.elastic.timer.file_based_local_timer import FileTimerClient, FileTimerRequest, FileTimerServer
from rallypoint.elastic.timer.local_timer import LocalTimerClient, LocalTimerServer

__all__ = [
    "FileTimerClient",
    "FileTimerRequest",
    "FileTimerServer",
    "LocalTimerClient",
    "LocalTimerServer",
    "RequestQueue",
    "TimerClient",
    "TimerRequest",
    "TimerServer",
    "configure",
    "expires",
]
