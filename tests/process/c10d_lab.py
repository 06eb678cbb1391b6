"""A worker store in a process of its own, which does not import torch."""

import os

from rallypoint.c10d.server import WorkerStore
from rallypoint.driver.loop import Loop
from rallypoint.net import Listener, listen


def serve():
    """The server process: prints its port, then what it warns of; for each line it reads, a new round begins."""
    with Loop() as loop:
        store = WorkerStore(loop, lambda text: print(text, flush=True))
        listener = Listener(loop, listen("127.0.0.1", 0), store.adopt)
        print(listener.port, flush=True)

        def told():
            if not os.read(0, 64):
                os._exit(0)  # the test is gone
            store.reset()
            print("new round", flush=True)

        loop.add_reader(0, told)
        while True:
            loop.turn()


if __name__ == "__main__":
    serve()
