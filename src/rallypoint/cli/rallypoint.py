"""``rallypoint VERB``: everything that this package does from a shell."""

from __future__ import annotations

import os
import sys

from rallypoint.cli.option import ACTION, COUNT, Option
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
             rallypoint store --listen HOST:PORT [--token-file FILE] [-v]     (port 29400 unless said)
                              [--ssl-cert FILE --ssl-cert-key FILE [--ca-cert FILE]]
           Jobs name it with --rdzv-backend c10d --rdzv-endpoint HOST:PORT --rdzv-conf is_host=false.
  doctor   See whether this machine is fit, and the store within reach (see rallypoint doctor --help).
  version  Print the version.
  help     Print this.
"""

_STORE_OPTIONS = (
    Option("--listen", "HOST[:PORT]", "", "Address to listen at."),
    Option("--token-file", "FILE", "", "File with the token that nodes have to know."),
    Option("--ssl-cert", "FILE", "", "Certificate (PEM) to show: nodes that do not encrypt are refused."),
    Option("--ssl-cert-key", "FILE", "", "Its key."),
    Option("--ca-cert", "FILE", "", "Authority (PEM) that must have signed what the nodes show."),
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
    if verb == "doctor":
        from rallypoint.cli.doctor import doctor

        return doctor(words)
    if verb in ("version", "--version"):
        print(version())
    elif verb in ("help", "--help", "-h"):
        print(HELP, end="")
    elif not verb:
        raise MisuseError("a verb is missing: run, store, doctor, version or help")
    else:
        raise MisuseError(f"there is no verb {verb}; there are run, store, doctor, version and help")
    return exits.SUCCESS


def _store(words: list[str]) -> int:
    from rallypoint.cli import convert
    from rallypoint.model.spec import DEFAULT_STORE_PORT
    from rallypoint.model.terms import read_token

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

    conf = {"token_file": given.text("token_file")} if given.said("token_file") else {}
    token = read_token("rallypoint store", conf, os.environ)
    names = ("ca_cert", "ssl_cert", "ssl_cert_key")
    files = {name: given.text(name) for name in names if given.said(name)}
    tls = None
    if files:
        from rallypoint.store.tls import identity

        tls = identity("rallypoint store", files, True)
    return serve_store(host, port, given.count("verbose"), token, tls.server if tls else None)
