"""Where the workers' output goes, by torch's names."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from rallypoint.elastic.multiprocessing.std import Std, to_map

_CONSOLE = ""
_PREFIX = "rallypoint_"


@dataclass
class LogsDest:
    """Paths by local rank. A stream with the path "" is the launcher's own; ``tee_*`` are those also shown there.

    ``filtered_*`` get the lines of all tee'd streams that a filter lets through.
    """

    stdouts: dict[int, str] = field(default_factory=dict)
    stderrs: dict[int, str] = field(default_factory=dict)
    tee_stdouts: dict[int, str] = field(default_factory=dict)
    tee_stderrs: dict[int, str] = field(default_factory=dict)
    error_files: dict[int, str] = field(default_factory=dict)
    filtered_stdout: str = field(default_factory=str)
    filtered_stderr: str = field(default_factory=str)


class LogsSpecs(ABC):
    """Says where each worker's output goes.

    ``redirects`` are written to files, ``tee`` to files and the console: one ``Std`` for all workers or
    one for each local rank. Of ``local_ranks_filter`` alone, if given, anything reaches the console.
    """

    def __init__(
        self,
        log_dir: str | None = None,
        redirects: Std | dict[int, Std] = Std.NONE,
        tee: Std | dict[int, Std] = Std.NONE,
        local_ranks_filter: set[int] | None = None,
    ) -> None:
        self._root_log_dir = log_dir
        self._redirects = redirects
        self._tee = tee
        self._local_ranks_filter = local_ranks_filter

    @abstractmethod
    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Return the paths for workers with these environments, by local rank.

        Sets TORCHELASTIC_ERROR_FILE in them.
        """

    @property
    @abstractmethod
    def root_log_dir(self) -> str:
        """The directory below which everything lies."""


class DefaultLogsSpecs(LogsSpecs):
    """``<log_dir>/<run id>_<random>/attempt_<restart count>/<local rank>/{stdout.log,stderr.log,error.json}``.

    ``log_dir`` None: a new temporary directory; os.devnull: no files at all. Raises NotADirectoryError
    for a ``log_dir`` that is a file.
    """

    def __init__(
        self,
        log_dir: str | None = None,
        redirects: Std | dict[int, Std] = Std.NONE,
        tee: Std | dict[int, Std] = Std.NONE,
        local_ranks_filter: set[int] | None = None,
    ) -> None:
        if not log_dir:
            import tempfile

            log_dir = tempfile.mkdtemp(prefix=_PREFIX)
        elif os.path.isfile(log_dir):
            raise NotADirectoryError(f"log_dir: {log_dir} is a file")
        elif log_dir != os.devnull:
            os.makedirs(log_dir, exist_ok=True)
        super().__init__(log_dir, redirects, tee, local_ranks_filter)
        self._run_log_dir: str | None = None

    @property
    def root_log_dir(self) -> str:
        """The directory below which everything lies."""
        return str(self._root_log_dir)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Make the directories of this attempt anew; return the paths. Sets TORCHELASTIC_ERROR_FILE in ``envs``."""
        count = len(envs)
        if self._root_log_dir == os.devnull:
            return self._nowhere(envs)
        attempt = self._attempt_dir(envs.get(0, {}))
        tee = to_map(self._tee, count)
        redirects = to_map(self._redirects, count)
        dest = LogsDest(
            filtered_stdout=os.path.join(attempt, "filtered_stdout.log"),
            filtered_stderr=os.path.join(attempt, "filtered_stderr.log"),
        )
        for rank in range(count):
            directory = os.path.join(attempt, str(rank))
            os.mkdir(directory)
            streams = (
                (Std.OUT, "stdout.log", dest.stdouts, dest.tee_stdouts),
                (Std.ERR, "stderr.log", dest.stderrs, dest.tee_stderrs),
            )
            for bit, name, paths, shown in streams:
                redirected = bool((redirects[rank] | tee[rank]) & bit)
                hidden = bool(self._local_ranks_filter) and rank not in (self._local_ranks_filter or ())
                elsewhere = os.devnull if hidden else _CONSOLE
                paths[rank] = os.path.join(directory, name) if redirected else elsewhere
                if tee[rank] & bit and not hidden:
                    shown[rank] = paths[rank]
            dest.error_files[rank] = os.path.join(directory, "error.json")
            envs[rank]["TORCHELASTIC_ERROR_FILE"] = dest.error_files[rank]
        return dest

    def _nowhere(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        ranks = range(len(envs))
        for rank in ranks:
            envs[rank]["TORCHELASTIC_ERROR_FILE"] = ""
        null = dict.fromkeys(ranks, os.devnull)
        console = dict.fromkeys(ranks, _CONSOLE)
        return LogsDest(
            console,
            dict(console),
            null,
            dict(null),
            dict(null),
            os.path.join(os.devnull, "filtered_stdout.log"),
            os.path.join(os.devnull, "filtered_stderr.log"),
        )

    def _attempt_dir(self, env: dict[str, str]) -> str:
        import shutil

        if not self._run_log_dir:
            self._run_log_dir = self._make_log_dir(self._root_log_dir, env.get("TORCHELASTIC_RUN_ID", "test_run_id"))
        path = os.path.join(self._run_log_dir, f"attempt_{env.get('TORCHELASTIC_RESTART_COUNT', '0')}")
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        return path

    def _make_log_dir(self, log_dir: str | None, rdzv_run_id: str) -> str:
        import tempfile

        base = log_dir or tempfile.mkdtemp(prefix=_PREFIX)
        os.makedirs(base, exist_ok=True)
        return tempfile.mkdtemp(prefix=f"{rdzv_run_id}_", dir=base)

    def __repr__(self) -> str:
        return (
            f"DefaultLogsSpecs(root_log_dir={self._root_log_dir}, redirects={self._redirects}, "
            f"tee={self._tee}, local_ranks_filter={self._local_ranks_filter})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DefaultLogsSpecs):
            return False
        names = ("_root_log_dir", "_redirects", "_tee", "_local_ranks_filter")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    __hash__ = None  # type: ignore[assignment]
