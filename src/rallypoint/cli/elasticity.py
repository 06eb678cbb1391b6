"""What was said about joining, leaving and restarting -> ``Membership``, ``RestartPolicy``, ``warm_start``."""

from __future__ import annotations

import signal

from rallypoint.cli import convert
from rallypoint.model.errors import UsageError
from rallypoint.model.spec import ACTIONS, ExitRule, Membership, RestartPolicy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rallypoint.cli.parse import Given


def elasticity(given: Given, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields of ``Spec`` that this module decides. Raises UsageError for a value that is none."""
    return {
        "membership": _membership(given, environ),
        "restart": _restart_policy(given),
        "warm_start": _warm_start(given),
        "preflight": _preflight(given),
    }


def _membership(given: Given, environ: Mapping[str, str]) -> Membership:
    failures, notice = given.text("max_node_failures"), given.text("notice_signal")
    leave = given.text("leave_signals")
    numbers = convert.signals(given.where("notice_signal"), notice) if notice else ()
    if len(numbers) > 1:
        raise given.wrong("notice_signal", "it is one signal, as USR1")
    return Membership(
        admit=given.text("admit"),
        join_interval=_seconds(given, "join_interval"),
        spares=convert.whole(given.where("spares"), given.text("spares")),
        topology=_topology(given, environ),
        leave_signals=convert.signals(given.where("leave_signals"), leave) if leave else (),
        notice_signal=numbers[0] if numbers else None,
        notice_grace=_seconds(given, "notice_grace"),
        max_node_failures=convert.whole(given.where("max_node_failures"), failures, 1) if failures else None,
    )


def _restart_policy(given: Given) -> RestartPolicy:
    where, text = given.where("restart_delay"), given.text("restart_delay")
    first, colon, most = text.partition(":")
    try:
        delay = convert.seconds(where, first, zero=True)
        max_delay = convert.seconds(where, most) if colon else max(delay, RestartPolicy().max_delay)
    except UsageError:
        raise given.wrong("restart_delay", "it is FIRST or FIRST:MAX, times in seconds, as 1:60") from None
    if delay > max_delay:
        raise given.wrong("restart_delay", "it is FIRST:MAX with FIRST no larger than MAX")
    window = given.text("restart_window")
    return RestartPolicy(
        window=convert.seconds(given.where("restart_window"), window) if window else None,
        delay=delay,
        max_delay=max_delay,
        rules=tuple(_rule(given, part.strip()) for part in given.text("on_exit").split(",") if part.strip()),
        scope=given.text("restart_scope"),
    )


def _warm_start(given: Given) -> tuple[str, ...] | None:
    """Return the modules that waiting interpreters import; None: there are to be none."""
    text = given.text("warm_start").strip()
    if text in ("on", "off"):
        return () if text == "on" else None
    names = tuple(name.strip() for name in text.split(","))
    if not all(part.isidentifier() for name in names for part in name.split(".")):
        raise given.wrong("warm_start", "it is on, off, or names of modules, as torch,numpy")
    return names


def _preflight(given: Given) -> str | None:
    """Return the command to run ("" none); None: no pre-flight. A variable says 1 for one without a command."""
    if not given.said("preflight"):
        return None
    text = given.text("preflight").strip()
    return {"0": None, "1": ""}.get(text, text)


def _seconds(given: Given, dest: str) -> float:
    return convert.seconds(given.where(dest), given.text(dest), zero=True)


def _topology(given: Given, environ: Mapping[str, str]) -> str:
    """Return this node's key: from a variable, the first line of a file or of a command's output, or as said."""
    text = given.text("topology").strip()
    kind, _, rest = text.partition(":")
    if kind == "env":
        if rest not in environ:
            raise given.wrong("topology", f"the variable {rest} is not set on this node")
        return environ[rest].strip()
    if kind == "file":
        try:
            with open(rest, encoding="utf-8", errors="replace") as file:
                return file.readline().strip()
        except OSError as error:
            raise given.wrong("topology", f"the file cannot be read: {error.strerror}") from None
    return _command_key(given, rest) if kind == "cmd" else text


def _command_key(given: Given, command: str) -> str:
    import subprocess

    try:
        done = subprocess.run(["/bin/sh", "-c", command], stdout=subprocess.PIPE, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise given.wrong("topology", f"the command does not answer: {error}") from None
    if done.returncode:
        raise given.wrong("topology", f"the command failed with status {done.returncode}")
    return done.stdout.partition("\n")[0].strip()


def _rule(given: Given, text: str) -> ExitRule:
    what, _, action = (part.strip() for part in text.partition("="))
    if action not in ACTIONS or not what:
        raise given.wrong("on_exit", f"it is WHAT=ACTION,... and {text!r} is not; actions are {', '.join(ACTIONS)}")
    if what.isascii() and what.isdigit():
        if not 1 <= int(what) <= 255:
            raise given.wrong("on_exit", f"{what} is no exit status of a failure; they are 1 to 255")
        return ExitRule(str(int(what)), action)
    plain = "SIG" + what.upper().removeprefix("SIG")
    if plain in signal.Signals.__members__:
        return ExitRule(plain, action)
    if not what.replace(".", "").replace("_", "").isalnum():
        raise given.wrong("on_exit", f"{what!r} is no exit status, signal or exception type")
    return ExitRule(what, action)
