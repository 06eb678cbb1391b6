"""Why a SIGKILL may have come: evidence of an out-of-memory kill.

Three witnesses, the best first: the kernel's log, which names the pid (readable for root); the
counter of our memory cgroup; the counter of the whole machine. Counters are remembered when a
round starts and compared when a worker was killed, so a plain ``kill -9`` claims nothing.
"""

from __future__ import annotations

import os

ROOT = "/sys/fs/cgroup"
_INIT_PID_NAMESPACE = "pid:[4026531836]"  # fixed in the kernel: PROC_PID_INIT_INO
_NO_LIMIT = 1 << 60  # v1 writes its "no limit" as a number near 2**63


class OomEvidence:
    """Remembers counters, and tells in words what they say of a killed process."""

    def __init__(self, root: str = ROOT, membership: str = "/proc/self/cgroup", vmstat: str = "/proc/vmstat") -> None:
        self._root = root
        self._membership = membership
        self._vmstat = vmstat
        self._cgroup: Cgroup | None = None
        self._log = KernelLog()
        self._known = False
        self._cgroup_kills = 0
        self._machine_kills = 0

    def remember(self) -> None:
        """Take the counters as they are now: only what comes later is evidence. About 0.1 ms."""
        if not self._known:
            self._known = True
            self._cgroup = find_cgroup(self._root, self._membership)
            self._log.open()
        self._log.drain()
        self._log.victims.clear()
        self._cgroup_kills = self._cgroup.kills() if self._cgroup else 0
        self._machine_kills = _counter(self._vmstat, b"oom_kill")

    def words(self, pid: int) -> str:
        """Say why ``pid``, killed by SIGKILL, probably ran out of memory; "" if nothing says so.

        Each kill that was counted explains one process only.
        """
        if not self._known:
            return ""
        self._log.drain()
        if pid in self._log.victims:
            return self._named(pid)
        if self._cgroup and self._cgroup.kills() - self._cgroup_kills > len(self._log.victims):
            self._cgroup_kills += 1
            self._machine_kills += 1
            return _limit_words(self._cgroup.limit())
        if _counter(self._vmstat, b"oom_kill") - self._machine_kills > len(self._log.victims):
            self._machine_kills += 1
            return "likely out of memory: the kernel's OOM killer was active on this machine"
        return ""

    def close(self) -> None:
        self._log.close()

    def _named(self, pid: int) -> str:
        path = self._log.victims[pid]
        return _limit_words(self._cgroup.at(path).limit() if self._cgroup and path else None)

    def __repr__(self) -> str:
        state = f"{self._cgroup_kills} in {self._cgroup}, {self._machine_kills} on the machine"
        return f"<OomEvidence {state if self._known else 'nothing remembered'}>"


class Cgroup:
    """A memory cgroup, version 1 or 2."""

    def __init__(self, mount: str, path: str, version: int) -> None:
        self.mount = mount
        self.version = version
        # In a container the path may be the host's, while the mount shows the container's own root.
        folder = mount + path.rstrip("/")
        self.folder = folder if os.path.isdir(folder) else mount

    def at(self, path: str) -> Cgroup:
        """Return another cgroup of the same tree."""
        return Cgroup(self.mount, path, self.version)

    def kills(self) -> int:
        """How many processes of this cgroup the OOM killer has ended (v2: below it, too)."""
        return _counter(self.folder + ("/memory.events" if self.version == 2 else "/memory.oom_control"), b"oom_kill")

    def limit(self) -> int | None:
        """The smallest limit in bytes from here up to the root; None if there is none."""
        name = "/memory.max" if self.version == 2 else "/memory.limit_in_bytes"
        limits = []
        folder = self.folder
        while folder.startswith(self.mount):
            content = _read(folder + name).strip()
            if content.isdigit() and int(content) < _NO_LIMIT:
                limits.append(int(content))
            folder = os.path.dirname(folder)
        return min(limits, default=None)

    def __repr__(self) -> str:
        return f"<Cgroup v{self.version} {self.folder}>"


class KernelLog:
    """The OOM killer's records in /dev/kmsg, from ``open`` on. ``victims``: pid -> cgroup whose limit it was."""

    def __init__(self) -> None:
        self._fd = -1
        self.victims: dict[int, str] = {}

    def open(self) -> None:
        """Start at the end of the log, if we may read it and its pids are those that we see."""
        try:
            if os.readlink("/proc/self/ns/pid") == _INIT_PID_NAMESPACE:
                self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self.close()

    def drain(self) -> None:
        """Read what is new."""
        while self._fd >= 0:
            try:
                self._note(os.read(self._fd, 8192))
            except BrokenPipeError:
                pass  # records were overwritten before we read them; the next read goes on after the gap
            except OSError:
                return

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _note(self, record: bytes) -> None:
        """Note "oom-kill:constraint=CONSTRAINT_MEMCG,...,oom_memcg=/a,task_memcg=/a/b,task=python,pid=7,uid=0"."""
        _, found, rest = record.partition(b"oom-kill:")
        fields = dict(piece.partition(b"=")[::2] for piece in rest.split(b"\n", 1)[0].split(b","))
        if found and fields.get(b"pid", b"").isdigit():
            self.victims[int(fields[b"pid"])] = os.fsdecode(fields.get(b"oom_memcg", b""))


def find_cgroup(root: str, membership: str) -> Cgroup | None:
    """Return the memory cgroup that /proc/self/cgroup (``membership``) names, or None."""
    unified = None
    for line in _read(membership).splitlines():
        number, _, rest = line.decode(errors="replace").partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            return Cgroup(root + "/memory", path, 1)
        if number == "0":
            mount = root if os.path.exists(root + "/cgroup.controllers") else root + "/unified"
            unified = Cgroup(mount, path, 2)
    return unified if unified and os.path.exists(unified.folder + "/memory.events") else None


def _limit_words(limit: int | None) -> str:
    if limit is None:
        return "out of memory: killed by the kernel's OOM killer"
    return f"out of memory: the cgroup's limit of {limit / (1 << 30):.2g} GiB was reached"


def _counter(path: str, name: bytes) -> int:
    """Return the number after ``name`` at the start of a line; 0 if it is not there."""
    _, found, rest = (b"\n" + _read(path)).partition(b"\n" + name + b" ")
    return int(rest.split(None, 1)[0]) if found else 0


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
