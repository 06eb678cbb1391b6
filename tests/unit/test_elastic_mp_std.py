"""Std, to_map and the destinations of logs."""

import os
import pickle

import pytest

from rallypoint.elastic.multiprocessing import DefaultLogsSpecs, LogsDest, LogsSpecs, SignalException, Std, to_map

ALL = {0: {}, 1: {}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", Std.NONE),
        ("1", Std.OUT),
        ("2", Std.ERR),
        ("3", Std.ALL),
        ("0:3,1:0", {0: Std.ALL, 1: Std.NONE}),
        ("12:1,7:2", {12: Std.OUT, 7: Std.ERR}),
        ("100:3", {100: Std.ALL}),
    ],
)
def test_from_str(text, value):
    assert Std.from_str(text) == value


@pytest.mark.parametrize("text", ["", "4", "12", "0:4", "a:1", "0:1,", ",0:1", "0:1;1:2", "-1:1", "0:1\n", "٣"])
def test_from_str_refuses(text):
    with pytest.raises(ValueError, match="does not match"):
        Std.from_str(text)


def test_to_map():
    assert to_map(Std.OUT, 2) == {0: Std.OUT, 1: Std.OUT}
    assert to_map({1: Std.ERR}, 2) == {0: Std.NONE, 1: Std.ERR}
    assert to_map({5: Std.ERR}, 1) == {0: Std.NONE}


def envs(count=2, **more):
    return {rank: dict(more) for rank in range(count)}


def test_paths(tmp_path):
    specs = DefaultLogsSpecs(str(tmp_path), redirects={0: Std.OUT}, tee={1: Std.ALL})
    environments = envs(TORCHELASTIC_RUN_ID="job", TORCHELASTIC_RESTART_COUNT="2")
    dest = specs.reify(environments)
    (run,) = tmp_path.iterdir()
    base = run / "attempt_2"
    assert run.name.startswith("job_")
    assert dest == LogsDest(
        stdouts={0: f"{base}/0/stdout.log", 1: f"{base}/1/stdout.log"},
        stderrs={0: "", 1: f"{base}/1/stderr.log"},
        tee_stdouts={1: f"{base}/1/stdout.log"},
        tee_stderrs={1: f"{base}/1/stderr.log"},
        error_files={0: f"{base}/0/error.json", 1: f"{base}/1/error.json"},
        filtered_stdout=f"{base}/filtered_stdout.log",
        filtered_stderr=f"{base}/filtered_stderr.log",
    )
    assert environments[1]["TORCHELASTIC_ERROR_FILE"] == dest.error_files[1]


def test_an_attempt_starts_with_empty_directories_in_the_same_run(tmp_path):
    specs = DefaultLogsSpecs(str(tmp_path))
    first = specs.reify(envs())
    open(first.error_files[0], "w").close()
    second = specs.reify(envs())
    assert second.error_files == first.error_files and not os.path.exists(second.error_files[0])


def test_ranks_that_are_filtered_out_are_silent(tmp_path):
    dest = DefaultLogsSpecs(str(tmp_path), tee={0: Std.OUT, 1: Std.OUT}, local_ranks_filter={0}).reify(envs())
    assert list(dest.tee_stdouts) == [0]
    assert dest.stdouts[1].endswith("1/stdout.log")
    assert (dest.stderrs[0], dest.stderrs[1]) == ("", os.devnull)


def test_no_files_at_all():
    environments = envs(1)
    dest = DefaultLogsSpecs(os.devnull, tee=Std.ALL).reify(environments)
    assert dest.stdouts == {0: ""} and dest.error_files == {0: os.devnull}
    assert environments[0]["TORCHELASTIC_ERROR_FILE"] == ""


def test_the_directory(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError):
        DefaultLogsSpecs(str(file))
    made = DefaultLogsSpecs(str(tmp_path / "a" / "b"))
    assert os.path.isdir(made.root_log_dir)
    fresh = DefaultLogsSpecs()
    assert os.path.isdir(fresh.root_log_dir)
    os.rmdir(fresh.root_log_dir)
    with pytest.raises(TypeError):
        LogsSpecs()


def test_equality_and_text(tmp_path):
    one, other = (DefaultLogsSpecs(str(tmp_path), tee=Std.OUT) for _ in range(2))
    assert one == other and one != DefaultLogsSpecs(str(tmp_path)) and one != 1
    assert "tee=" in repr(one)


def test_a_signal_exception_survives_pickling():
    error = pickle.loads(pickle.dumps(SignalException("told", sigval=15)))
    assert (str(error), error.sigval) == ("told", 15)


@pytest.mark.torch
def test_torch_makes_the_same_paths(tmp_path):
    from torch.distributed.elastic import multiprocessing as theirs

    for filtered in (None, {0}):
        for redirects, tee in ((0, 3), (1, 2), (3, 0), ({0: 1}, {1: 2})):
            dests = []
            for module, std in ((theirs, theirs.Std), ((__import__(__name__), Std))):
                folder = tmp_path / f"{module.__name__.rpartition('.')[2]}_{redirects}_{tee}_{filtered}"
                values = [
                    {r: std(v) for r, v in x.items()} if isinstance(x, dict) else std(x) for x in (redirects, tee)
                ]
                dest = module.DefaultLogsSpecs(str(folder), *values, filtered).reify(envs(3))
                (run,) = folder.iterdir()
                dests.append(eval(repr(vars(dest)).replace(str(run), "")))
            assert dests[0] == dests[1]
