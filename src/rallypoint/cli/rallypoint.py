"""``rallypoint VERB``: everything that this package does from a shell."""

from __future__ import annotations

import sys

from rallypoint.cli.options import ACTION, COUNT, Option
from rallypoint.cli.parse import Given, MisuseError, scan
from rallypoint.cli.rallyrun import guarded, launch, version
from rallypoint.model import exits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HELP = """\
usage: rallypoint VERB ...

  run      Start a job: the same as rallyrun (see rallypoint run --help).
  store    Serve a store of its own for nodes to meet at:
             rallypoint store --listen HOST:PORT [-v]     (port 29400 unless said)
           Jobs name it with --rdzv-backend c10d --rdzv-endpoint HOST:PORT --rdzv-conf is_host=false.
  version  Print the version.
  help     Print this.
"""

_STORE_OPTIONS = (
    Option("--listen", "HOST[:PORT]", "", "Address to listen at."),
    Option("--verbose", "", "", "Say more.", short="-v", kind=COUNT),
    Option("--help", "", "", "Print this and end.", short="-h", kind=ACTION),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``rallypoint`` with ``argv`` (None: the process's own) and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = words.pop(0) if words else ""
    if verb == "run":
        return launch(words, "rallypoint run")
    return guarded("rallypoint", lambda: _verb(verb, words))


def _verb(verb: str, words: list[str]) -> int:
    if verb == "store":
        return _store(words)
    if verb in ("version", "--version"):
        print(version())
    elif verb in ("help", "--help", "-h"):
        print(HELP, end="")
    elif not verb:
        raise MisuseError("a verb is missing: run, store, version or help")
    else:
        raise MisuseError(f"there is no verb {verb}; there are run, store, version and help")
    return exits.SUCCESS


def _store(words: list[str]) -> int:
    from rallypoint.cli import convert
    from rallypoint.model.spec import DEFAULT_STORE_PORT

    said, rest = scan(words, _STORE_OPTIONS)
    given = Given(_STORE_OPTIONS, said, rest)
    if given.flag("help"):
        print(HELP, end="")
        return exits.SUCCESS
    if rest:
        raise MisuseError(f"store takes options only, not {rest[0]}")
    if not given.said("listen"):
        raise MisuseError("store needs --listen HOST:PORT, the address that the nodes will name")
    host, port = convert.endpoint(given.where("listen"), given.text("listen"), DEFAULT_STORE_PORT)
    from rallypoint.driver import serve_store

    return serve_store(host, port, given.count("verbose"))
