"""What the function workers of the tests run. Standard library only: every worker imports it."""

import os
import signal
import sys
import threading
import time


class JobError(Exception):
    def __init__(self, text, *, code):
        super().__init__(text)
        self.code = code

    def __reduce__(self):
        return _job_error, (self.args[0], self.code)


def _job_error(text, code):
    return JobError(text, code=code)


class StubbornError(Exception):
    """Its pickle cannot be read back."""

    def __init__(self, first, second):
        super().__init__(first)


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Point and other.x == self.x

    __hash__ = None


def add(a, b):
    return a + b


def say(text):
    print(text)
    print(text.upper(), file=sys.stderr)
    return text


def raises(text):
    raise JobError(text, code=7)


def raises_stubborn():
    raise StubbornError("one", "two")


def chained():
    try:
        int("x")
    except ValueError as error:
        raise RuntimeError("outer") from error


def returns_lock():
    return threading.Lock()


def leaves(how):
    if how == "exit 3":
        sys.exit(3)
    if how == "exit":
        sys.exit()
    if how == "text":
        sys.exit("the reason")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "quiet":
        os._exit(0)


def big(size):
    return b"\x5a" * size


class Exploding:
    """Kills its process in the middle of being pickled."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def dies_while_writing(size):
    return [b"\x5a" * size, Exploding()]


def state():
    """What the process is, for comparison between the ways of starting it."""
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "leads": os.getsid(0) == os.getpid() == os.getpgid(0),
        "env": dict(os.environ),
        "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "handlers": {int(n): str(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)},
        "cpus": sorted(os.sched_getaffinity(0)),
        "argv": sys.argv,
        "thread": threading.current_thread() is threading.main_thread(),
        "path": sys.path,
    }


def sleeps(seconds=60):
    time.sleep(seconds)


def announces_itself_and_sleeps(seconds=60):
    print(os.getpid(), flush=True)
    time.sleep(seconds)


def ignores_term(seconds=60):
    signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
    print("ready", flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(end - time.monotonic())


def leaves_a_child():
    """End while a grandchild goes on; its pid is returned."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid


def through_queue(queue, lock, value):
    with lock:
        queue.put(value)


def append(path, text):
    with open(path, "a") as file:
        file.write(text)


def at_exit(path):
    import atexit

    atexit.register(append, path, "worker ")
    return os.getpid()


def by_thread(path):
    """The value is there, but a thread still works when the function returns."""

    def work():
        time.sleep(0.2)
        append(path, "done")

    threading.Thread(target=work).start()


def barrier(directory, rank, count):
    """Wait until all ranks are here."""
    open(f"{directory}/{rank}", "w").close()
    while len([name for name in os.listdir(directory) if name.isdigit()]) < count:
        time.sleep(0.005)
