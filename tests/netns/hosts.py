"""A few hosts on one machine: network namespaces on a bridge, each with a name, an IPv4 and an IPv6 address.

All traffic stays between them. Needs root, ``ip`` and ``nft``; ``available()`` says what is missing.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

from lab import RALLYRUN

_COUNT = itertools.count()
_NAMED = 'echo "$0" > /proc/sys/kernel/hostname; exec "$@"'
_FILTER = """
table bridge lab {
  set dumb { type ifname; }
  set deaf { type ifname; }
  chain between {
    type filter hook forward priority 0;
    iifname @dumb drop
    oifname @deaf drop
  }
}
"""
_OWN = """
table inet own {
  chain leaving {
    type filter hook output priority 0;
    meta l4proto { tcp, udp } th dport 53 counter
  }
  chain coming {
    type filter hook input priority 0;
  }
}
"""


def available() -> str:
    """Why there can be no hosts here; "" if there can."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    missing = [tool for tool in ("ip", "nft", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: iproute2, nftables)"
    probe = f"rally{os.getpid()}probe"
    try:
        _run("ip", "netns", "add", probe)
        _run("ip", "netns", "exec", probe, "nft", "add table bridge probe")
    except subprocess.CalledProcessError as error:
        return f"network namespaces do not work here: {error.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return ""


def _run(*words: str, text: str = "") -> str:
    return subprocess.run(words, input=text, check=True, capture_output=True, text=True).stdout


class Hosts:
    """Hosts 1 to ``number``: host1 is 10.77.0.1 and fd77::1, and so on. A context manager.

    Names mean the same everywhere (``trap``: on its own host a name means 127.0.1.1, as Debian has it).
    The name server is an address that nobody has.
    """

    def __init__(self, number: int, trap: bool = False) -> None:
        self._prefix = f"rally{os.getpid()}x{next(_COUNT)}"
        self._switch = f"{self._prefix}sw"
        self._numbers = range(1, number + 1)
        self._trap = trap

    def space(self, number: int) -> str:
        return f"{self._prefix}h{number}"

    def command(self, number: int) -> list[str]:
        """The command line by which a launcher starts on a host; the process is the launcher itself."""
        return [*self.inside(number), *RALLYRUN]

    def inside(self, number: int) -> list[str]:
        """What to put before a command line for it to run on a host."""
        return ["ip", "netns", "exec", self.space(number), "unshare", "--uts", "sh", "-c", _NAMED, f"host{number}"]

    def cut(self, number: int, *ways: str) -> None:
        """From now on nothing gets to or from this host, and nobody is told. One way: "dumb" or "deaf" alone."""
        for way in ways or ("dumb", "deaf"):
            self._on_switch("add", way, number)

    def heal(self, number: int, *ways: str) -> None:
        for way in ways or ("dumb", "deaf"):
            self._on_switch("delete", way, number)

    def firewall(self, number: int, port: int | str) -> None:
        """The host drops what comes for ``port`` (or a range of them, as "1000-2000")."""
        _run("ip", "netns", "exec", self.space(number), "nft", f"add rule inet own coming tcp dport {port} drop")

    def name_queries(self, number: int) -> int:
        """How many packets the host has sent to name servers."""
        told = _run("ip", "netns", "exec", self.space(number), "nft", "list chain inet own leaving")
        return int(re.search(r"counter packets (\d+)", told).group(1))  # type: ignore[union-attr]

    def __enter__(self) -> Hosts:
        try:
            self._make_switch()
            for number in self._numbers:
                self._make_host(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        for space in (self._switch, *map(self.space, self._numbers)):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
            shutil.rmtree(f"/etc/netns/{space}", ignore_errors=True)

    def _make_switch(self) -> None:
        _run("ip", "netns", "add", self._switch)
        quiet = ["forward_delay", "0", "mcast_snooping", "0"]
        _run("ip", "-n", self._switch, "link", "add", "br0", "type", "bridge", *quiet)
        _run("ip", "-n", self._switch, "link", "set", "br0", "up")
        _run("ip", "netns", "exec", self._switch, "nft", "-f", "-", text=_FILTER)

    def _make_host(self, number: int) -> None:
        space, port = self.space(number), f"p{number}"
        files = Path("/etc/netns") / space  # `ip netns exec` puts these over those in /etc
        files.mkdir(parents=True)
        (files / "hosts").write_text("127.0.0.1 localhost\n" + "".join(map(self._entry(number), self._numbers)))
        (files / "resolv.conf").write_text("nameserver 10.77.0.254\n")
        _run("ip", "netns", "add", space)
        _run("ip", "-n", space, "link", "set", "lo", "up")
        _run("ip", "-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
        _run("ip", "-n", self._switch, "link", "set", port, "master", "br0", "up")
        _run("ip", "-n", space, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        _run("ip", "-n", space, "addr", "add", f"fd77::{number}/64", "dev", "eth0", "nodad")
        _run("ip", "-n", space, "link", "set", "eth0", "up")
        _run("ip", "netns", "exec", space, "nft", "-f", "-", text=_OWN)

    def _entry(self, own: int):
        def line(number: int) -> str:
            address = "127.0.1.1" if self._trap and number == own else f"10.77.0.{number}"
            return f"{address} host{number}.test host{number}\n"

        return line

    def _on_switch(self, verb: str, way: str, number: int) -> None:
        _run("ip", "netns", "exec", self._switch, "nft", f"{verb} element bridge lab {way} {{ p{number} }}")
