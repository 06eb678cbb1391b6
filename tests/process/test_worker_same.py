"""A worker under the hook finds everything as under plain ``python script.py``."""

import json
import re

import pytest
from test_worker_hook import INTERPRETERS, Worker

CHILD = " -c 'import sys; print(sys.path, sys.modules.get(\"faulthandler\"))'"

SAME = (
    """
import _thread, faulthandler, json, os, pickle, signal, sys
import multiprocessing as mp

CHILD = """
    + repr(CHILD)
    + """

def outer(number): return number + 1

def child(method):
    return [sys.path, sys.argv, os.environ.get("PYTHONPATH"), outer.__module__, faulthandler.is_enabled() and method]

def seen(before):
    import threading
    main = sys.modules["__main__"]
    return {
        "main": sorted(vars(main)), "file": main.__file__, "name": __name__, "spec": repr(main.__spec__),
        "argv": sys.argv, "path": sys.path, "prefix": sys.prefix, "flags": str(sys.flags), "x": sys._xoptions,
        "modules": before, "finders": [repr(f) for f in sys.meta_path],
        "importers": sorted(sys.path_importer_cache), "environ": sorted(os.environ.items()),
        "signals": [str(signal.getsignal(s)) for s in sorted(signal.valid_signals())],
        "mask": str(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "fds": os.listdir("/proc/self/fd"),
        "hooks": [sys.excepthook is sys.__excepthook__, threading.excepthook is _thread._excepthook],
        "hook names": [repr(pickle.dumps(h)) for h in (sys.excepthook, threading.excepthook)],
        "threads": threading.active_count(), "cwd": os.getcwd(), "umask": os.umask(18),
        "displayhook": repr(sys.displayhook), "child python": os.popen(sys.executable + CHILD).read(),
        "pickle": pickle.loads(pickle.dumps(outer))(1), "trace": [sys.gettrace(), sys.getprofile()],
    }

if __name__ == "__main__":
    found = seen(sorted(sys.modules))
    for method in ("spawn", "fork", "forkserver"):
        with mp.get_context(method).Pool(1) as pool:
            found[method] = [pool.map(outer, [1, 2]), pool.map(child, [method])]
    print(json.dumps(found))
"""
)


def same(worker, text, *options, **how):
    """Run under the hook and plainly; return both dumps, less what is different on purpose."""
    dumps = []
    for hook in (True, False):
        code, out, stderr = worker.run(text, *options, hook=hook, **how)
        assert code == 0, stderr
        found = json.loads(re.sub(" at 0x[0-9a-f]+", "", out))
        found["modules"] = [m for m in found["modules"] if m not in ("atexit", "faulthandler")]
        found["fork"][1][0][-1] = None  # a fork of the worker has its faulthandler
        dumps.append(found)
    return dumps


@pytest.mark.parametrize("python", INTERPRETERS)
@pytest.mark.parametrize("old", [None, "", "/no/such/folder:/tmp"])
def test_everything_is_as_without_the_hook(worker, python, old):
    hooked, plain = same(worker, SAME, python=python, old=old)
    assert hooked == plain
    assert hooked["spawn"][0] == [2, 3]


@pytest.mark.parametrize("python", INTERPRETERS)
def test_a_module_worker_is_as_without_the_hook(worker, python):
    worker.write("modular.py", SAME)
    hooked, plain = same(worker, None, "-X", "dev", "-m", "modular", "a", "--b", python=python)
    assert hooked == plain
    assert hooked["argv"][1:] == ["a", "--b"]


@pytest.fixture
def worker(tmp_path):
    return Worker(tmp_path)
