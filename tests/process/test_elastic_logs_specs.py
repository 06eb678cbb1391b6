"""The user's own ``LogsSpecs``: asked once for each start, and where it says is where the output goes."""

from __future__ import annotations

import json
import os
import sys

import pytest

from lab import Launch, script
from rallypoint.elastic.launcher.api import LaunchConfig, elastic_launch
from rallypoint.elastic.multiprocessing import DefaultLogsSpecs, LogsDest, LogsSpecs, Std
from rallypoint.elastic.multiprocessing.errors import ChildFailedError

CLASS = """\
import json, os
from {module} import LogsDest, LogsSpecs

class Own(LogsSpecs):
    @property
    def root_log_dir(self):
        return self._root_log_dir

    def reify(self, envs):
        place = os.path.join(self._root_log_dir, "start" + envs[0]["TORCHELASTIC_RESTART_COUNT"])
        os.makedirs(place)
        with open(place + "/asked", "w") as file:
            json.dump([sorted(envs), repr(self._tee), str(self._local_ranks_filter)], file)
        dest = LogsDest(filtered_stdout=place + "/filtered")
        for rank, env in envs.items():
            env["OWN"] = "said by reify"
            dest.stdouts[rank] = place + f"/out{{rank}}"
            dest.stderrs[rank] = os.devnull if rank else ""
            dest.error_files[rank] = env["TORCHELASTIC_ERROR_FILE"] = place + f"/error{{rank}}"
        dest.tee_stdouts[1] = dest.stdouts[1]
        return dest
"""
PROGRAM = """\
say("out", rank, os.environ["OWN"], os.environ["TORCHELASTIC_ERROR_FILE"])
sys.stderr.write(f"err {rank}\\n")
meet()
if count == 0 and rank == 1:
    raise ValueError("first start")
if count == 0:
    signal.pause()
"""


def check_files(root, first):
    for start in ("start0", "start1"):
        asked = json.loads((root / start / "asked").read_text())
        assert asked[0] == [0, 1] and asked[2] == first
        for rank in (0, 1):
            said = (root / start / f"out{rank}").read_text()
            assert said == f"out {rank} said by reify {root}/{start}/error{rank}\n"
        assert (root / start / "filtered").read_text().startswith("[default1]:out 1 said")
    assert "ValueError: first start" in (root / "start0" / "error1").read_text()


@pytest.mark.parametrize("module", ["rallypoint.elastic.multiprocessing", "torch.distributed.elastic.multiprocessing"])
def test_rallyrun_with_an_entry_point(tmp_path, module):
    if module.startswith("torch"):
        pytest.importorskip("torch")
    info = tmp_path / "own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[torchrun.logs_specs]\nown = own:Own\n")
    (tmp_path / "own.py").write_text(CLASS.format(module=module))
    root = tmp_path / "logs"
    options = ["--nproc-per-node=2", "--max-restarts=1", "--logs-specs=own", f"--log-dir={root}", "-t0:1"]
    options += ["--local-ranks-filter=1", "--duplicate-stdout-filters=out"]
    with Launch(*options, script(tmp_path, PROGRAM), env={"PYTHONPATH": str(tmp_path)}) as it:
        assert it.end() == 0, it.text
    check_files(root, "{1}")
    assert "Std" in json.loads((root / "start0" / "asked").read_text())[1]
    assert [line for line in it.out if "out" in line] == [
        f"[default1]:out 1 said by reify {root}/start{n}/error1" for n in (0, 1)
    ]
    assert [line for line in it.lines if line.startswith("err")] == ["err 0", "err 0"]


def test_a_class_that_fails_is_told_before_anything_starts(tmp_path):
    info = tmp_path / "own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[torchrun.logs_specs]\nown = own:none_such\n")
    (tmp_path / "own.py").write_text("")
    with Launch("--logs-specs=own", script(tmp_path, "say('ran')\n"), env={"PYTHONPATH": str(tmp_path)}) as it:
        assert it.end() == 2
    assert "--logs-specs: 'own' is not usable: the class cannot be had: AttributeError: module 'own'" in it.lines[0]
    assert "ran" not in it.out


class Own(LogsSpecs):
    def __init__(self, root, fails=False):
        super().__init__(str(root))
        self.asked = []
        self.fails = fails

    @property
    def root_log_dir(self):
        return self._root_log_dir

    def reify(self, envs):
        self.asked.append({rank: env["RANK"] for rank, env in envs.items()})
        if self.fails:
            raise RuntimeError("no place")
        paths = {rank: os.path.join(self.root_log_dir, f"{len(self.asked)}.{rank}") for rank in envs}
        return LogsDest(paths, dict.fromkeys(envs, ""), {}, {}, {rank: path + ".error" for rank, path in paths.items()})


def speaks():
    print("rank", os.environ["RANK"], flush=True)
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        sys.exit(3)
    return "done"


def config(specs, **more):
    return LaunchConfig(1, 1, 2, run_id="own", logs_specs=specs, monitor_interval=0.1, **more)


def test_elastic_launch_asks_it_at_each_start(tmp_path):
    specs = Own(tmp_path)
    assert elastic_launch(config(specs, max_restarts=1), speaks)() == {0: "done", 1: "done"}
    assert specs.asked == [{0: "0", 1: "1"}] * 2
    assert [(tmp_path / f"2.{rank}").read_text() for rank in (0, 1)] == ["rank 0\n", "rank 1\n"]


def test_a_subclass_of_the_default_decides_too(tmp_path):
    class Renamed(DefaultLogsSpecs):
        def reify(self, envs):
            dest = super().reify(envs)
            for rank, path in dest.stdouts.items():
                dest.stdouts[rank] = path + ".renamed"
            return dest

    specs = Renamed(str(tmp_path), redirects=Std.OUT)
    assert elastic_launch(config(specs, max_restarts=1), speaks)() == {0: "done", 1: "done"}
    assert len(list(tmp_path.glob("own_*/attempt_1/*/stdout.log.renamed"))) == 2


def test_one_that_fails_ends_the_run(tmp_path):
    with pytest.raises(ChildFailedError, match="its logs specs fail: RuntimeError: no place"):
        elastic_launch(config(Own(tmp_path, fails=True), max_restarts=1), speaks)()
