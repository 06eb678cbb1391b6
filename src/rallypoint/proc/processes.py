"""Workers as processes: start, signal, watch their ends, sweep up after them."""

from __future__ import annotations

import os
import signal as signals
import time

from rallypoint.model import exits
from rallypoint.model.event import Exited, Spawned, SpawnFailed, Swept
from rallypoint.model.result import ALL, Exit
from rallypoint.model.spec import STACK_SIGNAL
from rallypoint.proc import launch, procfs
from rallypoint.proc.evidence import OomEvidence
from rallypoint.proc.keeper import GuardKeeper
from rallypoint.proc.stuck import stuck_words
from rallypoint.proc.sweep import Sweep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence, Set

    from rallypoint.model.event import Event
    from rallypoint.model.reactor import Reactor
    from rallypoint.model.result import WorkerId

_NEVER = 1 << 62
"""A time, in ticks since boot, at which nothing has started."""
_TICKS = os.sysconf("SC_CLK_TCK")
_CLOSE_WAIT = 0.2
"""Seconds that ``close`` gives what it has just killed to be gone; the guard does the rest."""
_TRACED_WAIT = 0.1
"""Seconds to the next look at a worker that is dead but still held by a debugger."""


class _Worker:
    """One child. It stays on the process table (a zombie) until its round is swept.

    So its number, which names its process group and session, cannot become somebody else's while we
    may still signal that group or look for that session.
    """

    __slots__ = ("abandoned", "ended", "id", "pid", "pidfd", "told_at")

    def __init__(self, worker: WorkerId, pid: int, pidfd: int) -> None:
        self.id = worker
        self.pid = pid
        self.pidfd = pidfd
        self.ended = False
        self.abandoned = False
        self.told_at = -1.0  # when its group got SIGTERM, in ticks since boot

    @property
    def state(self) -> str:
        return "ended" if self.ended else "abandoned" if self.abandoned else "running"


class Processes:
    """All worker processes of this node. Tells ``emit`` what happens, possibly before a call returns.

    ``mark`` is this launcher's own (never seen before) value in the workers' RALLYPOINT_MARK, without ":".
    ``guard``: keep an orphan guard, see ``guard.py``. Only for tests that do without is it False.
    Use as a context manager, or call ``close``.
    """

    def __init__(self, reactor: Reactor, emit: Callable[[Event], None], mark: str, guard: bool = True) -> None:
        self._reactor = reactor
        self._emit = emit
        self._mark = mark
        self._workers: dict[WorkerId, _Worker] = {}
        self._sweeps: dict[tuple[int, int], Sweep] = {}
        self._stuck: dict[int, int] = {}  # pid -> start of what no sweep could end
        self._keeper = GuardKeeper(reactor, mark) if guard else None
        self._oom = OomEvidence()
        self._last_round = -1
        self._clock: procfs.PidClock | None = None  # of the last round; None until it has settled
        self._parked_clock: procfs.PidClock | None = None  # of its start, if it began before the round
        self.parked: Set[int] = frozenset()
        """Our children that are no workers yet (see ``parking``): no sweep's business."""
        _reap_ourselves()

    def spawn(
        self,
        worker: WorkerId,
        argv: Sequence[str],
        env: Mapping[str, str],
        stdio: tuple[int, int, int],
        fds: Sequence[int] = (),
    ) -> None:
        """Start a worker in a session of its own with descriptors 0, 1, 2 as in ``stdio``, and ``fds``.

        The caller keeps (and closes) its descriptors. Ends as Spawned or SpawnFailed.
        """
        try:
            pid = launch.start_command(argv, env, stdio, fds)
        except launch.StartError as error:
            self._emit(SpawnFailed(worker, str(error)))
            return
        self.adopt(worker, pid)

    def adopt(self, worker: WorkerId, pid: int, clock: procfs.PidClock | None = None) -> None:
        """Take over a child that was started (forked) elsewhere, and leads a session of its own or soon will.

        ``clock`` is that of its start, if that was before the round. Ends as Spawned or SpawnFailed.
        """
        try:
            pidfd = launch.watch(pid)
        except OSError as error:
            self._emit(SpawnFailed(worker, launch.words(error, f"pid {pid}")))
            return
        self._workers[worker] = _Worker(worker, pid, pidfd)
        self._reactor.add_reader(pidfd, lambda: self._ended(worker))
        if self._keeper:
            self._keeper.add(pid)
        if worker.round != self._last_round:
            self._last_round = worker.round
            self._clock = self._parked_clock = None
            self._reactor.soon(self._settle)  # after the other workers: they shall not wait for it
        elif worker.life:
            self._reactor.soon(self._oom.remember)
        if clock is not None and self._parked_clock is None:
            self._parked_clock = clock
        self._emit(Spawned(worker, pid))

    def pid(self, worker: WorkerId) -> int:
        """Return the process of a worker; 0 if it is none (any more)."""
        known = self._workers.get(worker)
        return known.pid if known and not known.ended else 0

    def guard(self, pid: int, there: bool) -> None:
        """Have the orphan guard know of a child that is no worker (yet), or no more."""
        if self._keeper:
            (self._keeper.add if there else self._keeper.remove)(pid)

    def signal(self, worker: WorkerId, number: int, group: bool = True) -> None:
        """Send a signal to the worker's process group, or to its main process; not if it is gone."""
        known = self._workers.get(worker)
        if known is None:
            return
        try:
            if group:
                os.killpg(known.pid, number)
                if number == signals.SIGTERM:
                    known.told_at = time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS
            elif not known.ended:
                signals.pidfd_send_signal(known.pidfd, number)
        except (ProcessLookupError, PermissionError):
            pass  # gone, or become another user's: the sweep says what is left

    def dump_stacks(self, worker: WorkerId) -> bool:
        """Have the worker's main process write its stacks. False: it would not, but die of the signal."""
        known = self._workers.get(worker)
        if known is None or known.ended or not procfs.catches(known.pid, STACK_SIGNAL):
            return False
        self.signal(worker, STACK_SIGNAL, group=False)
        return True

    def sweep(self, round: int, deadline: float, local_rank: int = ALL) -> None:
        """End all that the workers of ``round`` left behind; KILL at ``deadline``. Ends as Swept.

        All main processes of the round are to be gone (or abandoned). With ``local_rank`` that of this worker is, and
        what is found in its session, or below it, is ended: a daemon that has left both is the round's affair.
        A second call while the first is under way moves its deadline; there is still one Swept.
        """
        which = (round, local_rank)
        if which in self._sweeps:
            self._sweeps[which].hasten(deadline)
            return
        if not any(worker.round == round for worker in self._workers):
            self._emit(Swept(round, (), local_rank))
            return
        sweep = Sweep(
            self._reactor,
            find=lambda seen: self._find(round, seen, local_rank),
            told=self._told,
            done=lambda stuck: self._swept(round, stuck, local_rank),
        )
        self._sweeps[which] = sweep
        sweep.start(deadline)

    def abandon(self, worker: WorkerId) -> str:
        """Expect no end of this worker any more, and emit none. If it ends after all, it is reaped.

        Returns what keeps it, in words; "" if it is gone.
        """
        known = self._workers.get(worker)
        if known is None:
            return ""
        known.abandoned = True
        return stuck_words(known.pid)

    def close(self) -> None:
        """Kill what is left and release everything. Waits at most 0.2 s; what remains is the guard's."""
        for sweep in self._sweeps.values():
            sweep.close()
        self._sweeps.clear()
        left = self._kill_all() if self._workers else False
        for known in self._workers.values():
            self._unwatch(known)
            launch.reap(known.pid)
        self._workers.clear()
        self._oom.close()
        if self._keeper:
            self._keeper.close(quiet=not left)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _settle(self) -> None:
        """Remember what the end of the round is compared with."""
        self._clock = self._parked_clock or procfs.PidClock()
        self._oom.remember()

    def _ended(self, worker: WorkerId) -> None:
        known = self._workers[worker]
        exit = self._exit(known.pid)
        if exit is None:
            self._reactor.remove_reader(known.pidfd)
            self._reactor.call_at(self._reactor.now() + _TRACED_WAIT, lambda: self._watch_again(known))
            return
        self._unwatch(known)
        known.ended = True
        if known.abandoned:
            self._forget(known)
        else:
            self._emit(Exited(worker, exit))

    def _watch_again(self, known: _Worker) -> None:
        if known.pidfd >= 0:
            self._reactor.add_reader(known.pidfd, lambda: self._ended(known.id))

    def _exit(self, pid: int) -> Exit | None:
        """Return how a dead child ended; None as long as a debugger that traces it has not taken note."""
        try:
            result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:  # somebody else in this process reaped our child; never take that for success
            return Exit(pid, exits.LAUNCHER_ERROR)
        if result is None:
            return None
        if result.si_code == os.CLD_EXITED:
            return Exit(pid, result.si_status)
        oom = self._oom.words(pid) if result.si_status == signals.SIGKILL else ""
        return Exit(pid, None, result.si_status, core_dumped=result.si_code == os.CLD_DUMPED, oom=oom)

    def _find(self, round: int, seen: dict[int, int], local_rank: int = ALL) -> list[procfs.Process]:
        # The first started comes first, but for those that were parked: they are older than any of the round.
        pids = [w.pid for w in self._workers.values() if w.id.round == round]
        first = min(pids) if self._parked_clock else pids[0] if pids else 0
        current = self._clock if round == self._last_round else None
        processes = procfs.table(current.lowest(first) if current and pids else 0)
        meant = [w for w in self._workers.values() if w.id.round == round and local_rank in (ALL, w.id.local_rank)]
        mine = {w.pid for w in meant if not w.abandoned}
        since = min((processes[pid].start for pid in mine if pid in processes), default=0)
        since = since if local_rank == ALL else _NEVER  # all workers carry the same mark
        spared = procfs.ancestors(processes, os.getpid())
        spared |= {w.pid for w in self._workers.values() if not w.ended}  # the core's business, not the sweep's
        spared |= self.parked
        if self._keeper:
            spared.add(self._keeper.pid)
        spared |= {pid for pid, start in self._stuck.items() if pid in processes and processes[pid].start == start}
        return procfs.members(processes, mine, self._mark, spared=spared, seen=seen, since=since)

    def _told(self, process: procfs.Process) -> bool:
        return any(w.pid == process.pgid and process.start < int(w.told_at) for w in self._workers.values())

    def _swept(self, round: int, stuck: tuple[procfs.Process, ...], local_rank: int) -> None:
        self._sweeps.pop((round, local_rank), None)
        self._stuck.update((process.pid, process.start) for process in stuck)
        if local_rank == ALL:  # else the round's sweep has to know since when there may be something
            for known in [w for w in self._workers.values() if w.id.round == round and w.ended]:
                self._forget(known)
        self._emit(Swept(round, tuple(sorted(process.pid for process in stuck)), local_rank))

    def _forget(self, known: _Worker) -> None:
        launch.reap(known.pid)
        del self._workers[known.id]
        if self._keeper:
            self._keeper.remove(known.pid)

    def _unwatch(self, known: _Worker) -> None:
        if known.pidfd >= 0:
            self._reactor.remove_reader(known.pidfd)
            os.close(known.pidfd)
            known.pidfd = -1

    def _kill_all(self) -> bool:
        """Kill everything of every round; say whether something may be left."""
        end = self._reactor.now() + _CLOSE_WAIT
        running = [w for w in self._workers.values() if not w.ended and not w.abandoned]
        for known in running:
            self.signal(known.id, signals.SIGKILL)
        rounds = {worker.round for worker in self._workers}
        seen: dict[int, int] = {}
        hunt = procfs.Hunt(seen)
        while True:
            found = [process for round in rounds for process in self._find(round, seen)]
            if not found and all(launch.await_end(w.pidfd, 0) for w in running):
                return False
            hunt.step(found)
            if self._reactor.now() > end:
                return True
            time.sleep(0.002)

    def __repr__(self) -> str:
        states = [known.state for known in self._workers.values()]
        counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
        return f"<Processes {counts or 'none'}; {len(self._sweeps)} sweeps; {self._keeper}>"


def _reap_ourselves() -> None:
    """Undo an inherited "ignore SIGCHLD", under which the kernel throws exit statuses away."""
    if signals.getsignal(signals.SIGCHLD) is signals.SIG_IGN:
        try:
            signals.signal(signals.SIGCHLD, signals.SIG_DFL)
        except ValueError:
            pass  # not on the main thread: an exit then reads as a launcher's error, never as success
