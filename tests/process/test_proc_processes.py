"""Real processes: start, ends, signals. What is left behind: test_proc_sweep.py."""

import os
import signal
import sys
import time

import pytest

from rallypoint.driver.loop import Loop
from rallypoint.model import exits
from rallypoint.model.event import Exited, Spawned, SpawnFailed, Swept
from rallypoint.model.result import WorkerId
from rallypoint.model.spec import STACK_SIGNAL
from rallypoint.proc import launch, procfs
from rallypoint.proc.processes import Processes

LIMIT = 20.0
COUNTER = iter(range(10**6))


class World:
    """A loop, processes without a guard, and the events so far. ``say`` gives a worker a pipe to report on."""

    def __init__(self):
        self.loop = Loop()
        self.mark = f"test-{os.getpid()}-{next(COUNTER)}"
        self.events = []
        self.processes = Processes(self.loop, self.events.append, self.mark, guard=False)
        self.reading, self.writing = os.pipe()
        os.set_inheritable(self.writing, False)
        self.null = os.open(os.devnull, os.O_RDWR)

    def spawn(self, *argv, round=1, local_rank=0, env=None):
        worker = WorkerId(round, local_rank)
        env = {"PATH": os.environ["PATH"], "RALLYPOINT_MARK": self.mark} | (env or {})
        self.processes.spawn(worker, argv, env, (self.null, self.writing, 2))
        return worker

    def until(self, done, limit=LIMIT):
        assert self.loop.run_until(done, limit), (self.events, self.processes)

    def poll(self, done, limit=LIMIT):
        """Turn until ``done()``, which no event tells."""
        end = time.monotonic() + limit
        while not done():
            assert time.monotonic() < end, self.processes
            self.loop.turn(0.01)

    def heard(self, text):
        """Wait until a worker has written ``text``."""
        got = b""
        while text.encode() not in got:
            piece = os.read(self.reading, 4096)
            assert piece
            got += piece
        return got.decode()

    def of(self, kind):
        return [event for event in self.events if type(event) is kind]

    def exit(self, worker):
        self.until(lambda: any(e.worker == worker for e in self.of(Exited)))
        return next(e.exit for e in self.of(Exited) if e.worker == worker)

    def sweep(self, round=1, seconds=LIMIT):
        began = time.monotonic()
        self.processes.sweep(round, self.loop.now() + seconds)
        self.until(lambda: self.of(Swept))
        return time.monotonic() - began

    def marked(self):
        return [p.pid for p in procfs.table().values() if p.alive and procfs.carries(p.pid, self.mark)]

    def close(self):
        self.processes.close()
        assert self.marked() == []
        self.loop.close()
        for fd in (self.reading, self.writing, self.null):
            os.close(fd)


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


def python(*lines):
    return sys.executable, "-I", "-S", "-c", "\n".join(lines)


def test_exit_codes_signals_and_cores(world):
    ok, three = world.spawn("true"), world.spawn("sh", "-c", "exit 3", local_rank=1)
    killed = world.spawn("sh", "-c", "kill -9 $$", local_rank=2)
    aborted = world.spawn("sh", "-c", "ulimit -c 0; kill -ABRT $$", local_rank=3)
    assert world.exit(ok).succeeded
    assert (world.exit(three).code, world.exit(three).status) == (3, 3)
    assert (world.exit(killed).signal, world.exit(killed).words) == (signal.SIGKILL, "SIGKILL")
    assert (world.exit(aborted).signal, world.exit(aborted).core_dumped) == (signal.SIGABRT, False)
    assert [e.pid for e in world.of(Spawned)] == [world.exit(w).pid for w in (ok, three, killed, aborted)]


def test_a_core_is_reported(world, tmp_path):
    with open("/proc/sys/kernel/core_pattern") as file:
        if file.read().strip() != "core":
            pytest.skip("cores of this machine do not go to a file in the working directory")
    dumper = world.spawn("sh", "-c", f"cd {tmp_path}; ulimit -c unlimited && kill -SEGV $$")
    assert world.exit(dumper).core_dumped == bool(list(tmp_path.glob("core*")))
    assert world.exit(dumper).words.startswith("SIGSEGV (segmentation fault")


def test_an_exit_is_told_once_and_within_20_ms(world):
    worker = world.spawn(*python("import time", "print(time.monotonic(), flush=True)"))
    world.exit(worker)
    assert time.monotonic() - float(world.heard("\n")) < 0.5
    world.loop.turn(0.05)
    assert len(world.of(Exited)) == 1


@pytest.mark.parametrize(
    ("argv", "env", "words"),
    [
        (("/no/such",), {}, "no such file: '/no/such'"),
        (("no-such",), {}, "no such file: 'no-such' (looked for in PATH)"),
        (("true",), {"PATH": "/nowhere"}, "no such file: 'true' (looked for in PATH)"),
        (("",), {}, "no such file: ''"),
        (("/etc/passwd",), {}, "not executable: '/etc/passwd'"),
        (("/etc",), {}, "not executable: '/etc' is a directory"),
        (("passwd",), {"PATH": "/etc"}, "not executable: '/etc/passwd'"),
        (("true", "a\0b"), {}, "'true': embedded null byte"),
        (("true", "x" * (1 << 18)), {}, "arguments and environment are too long (E2BIG)"),
    ],
)
def test_why_it_could_not_be_started(world, argv, env, words):
    worker = world.spawn(*argv, env=env)
    assert world.events == [SpawnFailed(worker, words)]


def test_scripts_that_cannot_run(world, tmp_path):
    for name, text in (("none", "#!/no/such/interpreter\n"), ("bare", "echo\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    world.spawn(str(tmp_path / "none"))
    world.spawn("bare", env={"PATH": str(tmp_path)})
    reasons = [event.reason for event in world.of(SpawnFailed)]
    assert "the interpreter that" in reasons[0]
    assert "starts with #!" in reasons[1]


def test_a_full_process_table_in_words(world, monkeypatch):
    def refuse(*_args, **_options):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(launch.os, "posix_spawn", refuse)
    world.spawn("true")
    assert world.events[0].reason.startswith("too many processes (EAGAIN)")


def test_without_a_free_descriptor_nothing_runs_on(world, monkeypatch):
    def refuse(_pid):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(launch.os, "pidfd_open", refuse)
    world.spawn("sleep", "60")
    monkeypatch.undo()
    assert world.events[0].reason.startswith("too many open files (EMFILE)")
    assert world.marked() == []


def test_only_the_three_descriptors_and_a_clean_signal_state_reach_the_child(world):
    stray = os.dup(world.null)
    os.set_inheritable(stray, True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        world.spawn("sh", "-c", "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; echo .")
        lines = world.heard(".").split()
    finally:
        signal.signal(signal.SIGHUP, old)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        os.close(stray)
    assert lines[:4] == ["0", "1", "2", "3"]  # 3: ls itself, reading the folder
    assert lines[4:6] == ["SigBlk:", "0" * 16]
    glibcs_own = 0b11 << 31  # signals 32 and 33: posix_spawn has them ignored, nobody else may use them
    assert int(lines[7], 16) & ~glibcs_own == 1 << (signal.SIGHUP - 1)


def test_stdio_may_be_any_of_the_launchers_own(world):
    saved = os.dup(0)
    os.dup2(world.writing, 0)
    try:
        env = {"PATH": os.environ["PATH"], "RALLYPOINT_MARK": world.mark}
        # 0 becomes the null device before 1 is made from it: the order must not matter.
        world.processes.spawn(WorkerId(1, 0), ["sh", "-c", "echo out; echo err >&2"], env, (world.null, 0, 0))
    finally:
        os.dup2(saved, 0)
        os.close(saved)
    assert world.heard("err") == "out\nerr\n"


def test_a_session_of_its_own(world):
    worker = world.spawn("sleep", "60")
    pid = world.of(Spawned)[0].pid
    assert os.getsid(pid) == os.getpgid(pid) == pid
    world.processes.signal(worker, signal.SIGTERM)
    assert world.exit(worker).signal == signal.SIGTERM


def test_signals_to_the_group_or_to_the_main_process_alone(world):
    lines = (
        "import signal, os, time",
        "signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b'group '))",
        "signal.signal(signal.SIGUSR2, lambda *_: os.write(1, b'alone '))",
        "os.pipe(); reading, writing = os.pipe()",
        "if os.fork(): os.read(reading, 1); os.write(1, b'up ')",
        "else: os.write(writing, b'x')",
        "while 1: time.sleep(0.05)",
    )
    main = world.spawn(*python(*lines))
    world.heard("up ")
    world.processes.signal(main, signal.SIGUSR1)
    world.heard("group group ")
    world.processes.signal(main, signal.SIGUSR2, group=False)
    assert world.heard("alone ") == "alone "
    world.processes.signal(main, signal.SIGKILL, group=False)
    assert world.exit(main).signal == signal.SIGKILL
    assert len(world.marked()) == 1
    world.processes.signal(main, signal.SIGKILL, group=True)  # its leader is gone, its group is not
    world.poll(lambda: not world.marked())


def test_signals_to_what_is_gone_are_ignored(world):
    worker = world.spawn("true")
    world.exit(worker)
    world.processes.signal(worker, signal.SIGTERM)
    world.processes.signal(worker, signal.SIGTERM, group=False)
    world.sweep()
    world.processes.signal(worker, signal.SIGTERM)
    world.processes.signal(WorkerId(9, 9), signal.SIGTERM)


def test_stacks_are_asked_only_of_those_who_listen(world):
    deaf = world.spawn("sleep", "60")
    handler = f"signal.signal({int(STACK_SIGNAL)}, lambda *_: os.write(1, b'stacks'))"
    listener = world.spawn(
        *python("import os, signal, time", handler, "os.write(1, b'up')", "while 1: time.sleep(0.05)"), local_rank=1
    )
    world.heard("up")
    assert not world.processes.dump_stacks(deaf)
    assert not world.processes.dump_stacks(WorkerId(9, 9))
    assert world.processes.dump_stacks(listener)
    world.heard("stacks")
    assert world.of(Exited) == []


def test_two_hundred_starts_leave_nothing(world):
    descriptors = len(os.listdir("/proc/self/fd"))
    costs = []
    for round in range(50):
        for rank in range(4):
            began = time.perf_counter()
            world.spawn("/bin/true", round=round, local_rank=rank)
            costs.append(time.perf_counter() - began)
        world.until(lambda: len(world.of(Exited)) == 4)
        world.processes.sweep(round, world.loop.now())
        assert world.events[-1] == Swept(round)
        world.events.clear()
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1  # the kernel log, where it may be read
    assert [p for p in procfs.table().values() if p.ppid == os.getpid() and p.state == "Z"] == []
    assert min(costs) < 0.002, "0.4 ms on an idle machine; the least of all says it on a busy one, too"


def test_close_kills_what_is_left(world):
    world.spawn("sh", "-c", "trap '' TERM HUP INT; setsid sleep 61 & echo up; while :; do sleep 1; done")
    world.heard("up")
    world.poll(lambda: len(world.marked()) >= 2)
    world.processes.close()
    assert world.marked() == []
    assert repr(world.processes).startswith("<Processes none")
    assert world.of(Exited) == []


def test_an_end_that_somebody_else_reaped_is_no_success(world):
    worker = world.spawn("true")
    os.waitpid(world.of(Spawned)[0].pid, 0)
    assert world.exit(worker).code == exits.LAUNCHER_ERROR
    world.sweep()


def test_an_inherited_ignored_sigchld_is_undone():
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        world = World()
        assert world.exit(world.spawn("sh", "-c", "exit 3")).code == 3
        world.close()
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGCHLD, old)
