"""Each example does what it says, under the installed ``rallyrun``."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest

EXAMPLES = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", "examples"))
RALLYRUN = os.path.join(os.path.dirname(sys.executable), "rallyrun")
JAX_PYTHON = os.environ.get("RALLYPOINT_TEST_JAX_PYTHON", sys.executable)
"""JAX may live in an environment of its own."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def needs(*modules):
    missing = [name for name in modules if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed here")


def run(*command, folder, **environ):
    """Run to the end; return (exit status, all output)."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environ
    job = subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        out, _ = job.communicate(timeout=280)
    finally:
        if job.poll() is None:
            job.terminate()  # the launcher stops its workers
            job.wait(20)
    return job.returncode, out


def accuracy(out):
    return float(re.search(r"test accuracy (0\.\d+|1\.0+)", out).group(1))


@needs("torch", "sklearn")
@pytest.mark.torch
def test_the_main_job_survives_a_killed_worker(tmp_path):
    code, out = run(sys.executable, os.path.join(EXAMPLES, "main_job.py"), folder=tmp_path)
    assert code == 0, out
    # torch itself sometimes aborts a worker at exit, which costs the second restart of the two.
    restarts = 2 if "Fatal Python error: Aborted" in out else 1
    assert accuracy(out) > 0.95 and f"after 8 epochs, {restarts} restarts" in out
    assert "start 0: 4 workers, from epoch 0" in out
    resumed = re.search(r"start 1: 4 workers, from epoch (\d+)", out)
    assert resumed and resumed.group(1) in ("4", "5"), out  # killed in epoch 4; rank 0 may have saved that one
    assert "rank 3 kills itself in epoch 4" in out
    assert re.search(rf"rallyrun: finished after {restarts} restarts? \(.*rank 3 on .*SIGKILL", out), out
    assert "the nodes ended with 0, 0" in out


@needs("torch", "sklearn")
@pytest.mark.torch
def test_the_main_job_tells_how_it_failed(tmp_path):
    """A snapshot that cannot be read: every start fails, and so does the job, with the worker's status."""
    (tmp_path / "bad.pt").write_text("no snapshot")
    script = os.path.join(EXAMPLES, "train_digits.py")
    code, out = run(RALLYRUN, "--nproc-per-node", "2", script, "--snapshot", "bad.pt", folder=tmp_path)
    assert code == 1, out
    assert "load_snapshot" in out and "UnpicklingError" in out


@needs("numpy", "sklearn")
def test_train_numpy_resumes(tmp_path):
    command = [RALLYRUN, "--nproc-per-node", "3", "--max-restarts", "1", os.path.join(EXAMPLES, "train_numpy.py")]
    code, out = run(*command, "--fail-at-step", "110", folder=tmp_path)
    assert code == 0, out
    assert "start 1: 3 workers, from step 100" in out
    assert accuracy(out) > 0.95


def has_jax():
    return subprocess.run([JAX_PYTHON, "-c", "import jax"], capture_output=True, timeout=60).returncode == 0


def test_train_jax(tmp_path):
    if not has_jax():
        pytest.skip(f"jax is not installed for {JAX_PYTHON}")
    source = os.path.join(os.path.dirname(EXAMPLES), "src")
    command = [RALLYRUN, "--nproc-per-node", "2", os.path.join(EXAMPLES, "train_jax.py")]
    code, out = run(*command, folder=tmp_path, PYTHON_EXEC=JAX_PYTHON, PYTHONPATH=source)
    assert code == 0, out
    assert "rank 0: process 0 of 2" in out and "rank 1: process 1 of 2" in out
    error = re.search(r"error (\d\.\d+), 2 processes agree: True", out)
    assert error and float(error.group(1)) < 0.01, out
