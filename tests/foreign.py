"""A rendezvous handler of somebody else's, for tests: nodes meet by files in a folder. Needs nothing of Rallypoint."""

import fcntl
import os
import time
from datetime import timedelta
from pathlib import Path


class FolderStore:
    """The methods of torch's store that agents use."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def _path(self, key):
        return self.folder / key.replace("/", "%")

    def set(self, key, value):
        data = value.encode() if isinstance(value, str) else value
        spare = self._path(f"{key}.{os.getpid()}.new")
        spare.write_bytes(data)
        spare.rename(self._path(key))

    def get(self, key):
        self.wait([key])
        return self._path(key).read_bytes()

    def add(self, key, number):
        with open(self._path(key), "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            total = int(file.read() or 0) + number
            file.truncate(0)
            file.write(str(total).encode())
            file.flush()
        return total

    def wait(self, keys, timeout=timedelta(seconds=60)):
        end = time.monotonic() + timeout.total_seconds()
        while not all(self._path(key).exists() for key in keys):
            if time.monotonic() > end:
                raise TimeoutError(f"nobody set {keys}")
            time.sleep(0.01)


class FolderHandler:
    """``nodes`` nodes make a round; who asks again opens the next one."""

    use_agent_store = False

    def __init__(self, params, folder, info, store_info, leave=None):
        self.params, self.folder = params, Path(folder)
        self._info, self._store_info, self._leave = info, store_info, leave
        self.round = 0
        self.shut = False

    def get_backend(self):
        return self.params.backend

    def get_run_id(self):
        return self.params.run_id

    def is_closed(self):
        return False

    def set_closed(self):
        pass

    def _room(self, number):
        return FolderStore(self.folder / f"round{number}")

    def next_rendezvous(self):
        if self._leave is not None:
            raise self._leave
        self.round += 1
        room = self._room(self.round)
        rank = room.add("members", 1) - 1
        room.set(f"here{rank}", b"1")
        world = self.params.min_nodes
        room.wait([f"here{r}" for r in range(world)])
        return self._info(room, rank, world, self._store_info.build(rank, room, "127.0.0.1"))

    def num_nodes_waiting(self):
        path = self._room(self.round + 1)._path("members")
        return int(path.read_bytes() or 0) if path.exists() else 0

    def shutdown(self):
        self.shut = True
        (self.folder / f"shut.{os.getpid()}").touch()
        return True


def register(folder, leave=None):
    """Register it as "folder" with Rallypoint."""
    from rallypoint.elastic import rendezvous as rdzv

    def make(params):
        return FolderHandler(params, folder, rdzv.RendezvousInfo, rdzv.RendezvousStoreInfo, leave)

    rdzv.rendezvous_handler_registry._registry["folder"] = make
