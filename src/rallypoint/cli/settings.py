"""What was said -> ``Spec``: the only place where options and environment get their meaning."""

from __future__ import annotations

from rallypoint.cli import convert
from rallypoint.cli.command import worker_command
from rallypoint.cli.devices import share_out
from rallypoint.cli.elasticity import elasticity
from rallypoint.cli.parse import MisuseError
from rallypoint.cli.rendezvous import rendezvous
from rallypoint.model.errors import UsageError
from rallypoint.model.spec import LogSpec, Spec
from rallypoint.model.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rallypoint.cli.parse import Given


class Settings(Value):
    """A validated ``spec``, and ``notices``: one line each that the user should read once.

    ``event_log`` names the handler of events in torch's form.
    """

    spec: Spec
    notices: tuple[str, ...] = ()
    event_log: str = "null"


def settle(given: Given, environ: Mapping[str, str], legacy: bool = False) -> Settings:
    """Return the settings of a run. Raises UsageError; nothing has been started or opened then."""
    convert.seconds(given.where("monitor_interval"), given.text("monitor_interval"), zero=True)
    min_nodes, max_nodes = convert.nodes(given.where("nnodes"), given.text("nnodes"))
    nproc, devices = share_out(given, environ)
    meeting, notices = rendezvous(given, max_nodes, environ)
    if meeting.backend == "static" and min_nodes != max_nodes:
        raise given.wrong("nnodes", "it is one number with --rdzv-backend static; c10d takes MIN:MAX")
    argv, hook = worker_command(given, environ, legacy)
    handled, forwarded = _signals(given)
    spec = Spec(
        argv=argv,
        environ=_environ(given, environ),
        hook=hook,
        role=given.text("role"),
        min_nodes=min_nodes,
        max_nodes=max_nodes,
        nproc=nproc,
        local_addr=_local_addr(given),
        max_restarts=convert.whole(given.where("max_restarts"), given.text("max_restarts")),
        signals=handled,
        forward_signals=forwarded,
        virtual_local_rank=given.flag("virtual_local_rank"),
        logs=_logs(given, environ, nproc),
        verbosity=given.count("verbose"),
        log_format=given.text("log_format"),
        color=_color(environ),
        numa=given.text("numa_binding") or None,
        devices=devices,
        omp=_omp(given),
        **meeting.replace(timing=meeting.timing.replace(**_stop_times(given, environ))).as_dict(),
        **elasticity(given, environ),
    )
    return Settings(spec.validate(), (*notices, *_notices(given, environ, spec)), _event_log(given))


def _event_log(given: Given) -> str:
    """Return the name of a handler that exists."""
    name = given.text("event_log_handler")
    if name != "null":
        from rallypoint.observe.handlers import get_logging_handler

        try:
            get_logging_handler(name)
        except KeyError as error:
            raise given.wrong("event_log_handler", str(error.args[0])) from None
    return name


def _omp(given: Given) -> str:
    text = given.text("omp").strip()
    if text != "auto":
        try:
            convert.whole(given.where("omp"), text, 1)
        except UsageError:
            raise given.wrong("omp", "it is a number, 1 or more, or auto") from None
    return text


def _environ(given: Given, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the launcher's environment; a number of threads that was asked for holds for a single worker too."""
    if given.said("omp") and _omp(given) != "auto" and "OMP_NUM_THREADS" not in environ:
        return {**environ, "OMP_NUM_THREADS": _omp(given)}
    return dict(environ)


def _local_addr(given: Given) -> str | None:
    text = given.text("local_addr")
    return convert.host(given.where("local_addr"), text) if text else None


def _stop_times(given: Given, environ: Mapping[str, str]) -> dict[str, float]:
    where, text = given.where("shutdown_timeout"), given.text("shutdown_timeout")
    variable = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
    if not given.said("shutdown_timeout") and environ.get(variable):
        where, text = variable, environ[variable]
    times = {"shutdown_timeout": convert.seconds(where, text, zero=True)}
    if given.text("success_timeout"):
        times["success_timeout"] = convert.seconds(given.where("success_timeout"), given.text("success_timeout"))
    return times


def _signals(given: Given) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the signals that stop the run and those that it only passes on."""
    handled = convert.signals(given.where("signals_to_handle"), given.text("signals_to_handle"))
    text = given.text("forward_signals")
    forwarded = convert.signals(given.where("forward_signals"), text) if text else ()
    both = set(handled) & set(forwarded)
    if both and given.said("signals_to_handle"):
        other = given.where("signals_to_handle")
        raise given.wrong("forward_signals", f"{other} names some of these too, and a signal cannot do both")
    return tuple(s for s in handled if s not in both), forwarded


def _logs(given: Given, environ: Mapping[str, str], nproc: int) -> LogSpec:
    shown = given.text("local_ranks_filter")
    logs = LogSpec(
        directory=given.text("log_dir") or None,
        redirects=convert.streams(given.where("redirects"), given.text("redirects")),
        tee=convert.streams(given.where("tee"), given.text("tee")),
        shown=convert.ranks(given.where("local_ranks_filter"), shown) if shown else None,
        stdout_filters=convert.filters(given.text("duplicate_stdout_filters")),
        stderr_filters=convert.filters(given.text("duplicate_stderr_filters")),
        template=environ.get("TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE") or None,
        mode=given.text("logs"),
    )
    if logs.mode == "inherit":
        for dest in ("tee", "local_ranks_filter", "duplicate_stdout_filters", "duplicate_stderr_filters"):
            if given.said(dest) and given.text(dest) not in ("", "0"):
                raise MisuseError(
                    f"{given.where(dest)} needs {given.where('logs')} pipe: with inherit the launcher sees no output"
                )
    if not given.text("logs_specs"):
        return logs
    from rallypoint.cli.logs_specs import chosen

    return chosen(given, logs, nproc)


def _color(environ: Mapping[str, str]) -> bool | None:
    """Follow no-color.org and force-color.org; None lets the console decide."""
    if environ.get("NO_COLOR"):
        return False
    return True if environ.get("FORCE_COLOR") else None


def _notices(given: Given, environ: Mapping[str, str], spec: Spec) -> list[str]:
    notices = []
    threads = environ.get("OMP_NUM_THREADS")
    if given.said("omp"):
        if threads is not None:
            notices.append(f"{given.where('omp')} has no effect: OMP_NUM_THREADS={threads} is set")
    elif spec.nproc > 1 and threads is None:
        notices.append(
            f"OMP_NUM_THREADS is not set: each of the {spec.nproc} workers here gets OMP_NUM_THREADS=1 "
            "(--omp auto: its share of the cores)"
        )
    if spec.devices is not None:
        where, count = given.where("devices"), len(spec.devices)
        if count > spec.nproc:
            notices.append(f"{where} names {count} devices; only the first {spec.nproc} of them are used")
        if spec.nproc > 1 and not spec.virtual_local_rank:
            notices.append(
                f"{where}: each worker sees one device, its number 0; with --virtual-local-rank so is LOCAL_RANK"
            )
    if given.text("start_method") != "spawn":
        notices.append(f"{given.where('start_method')} has no effect: it concerns Python functions, not programs")
    return notices
