"""The workers' output: from pipes to files and console, within the one loop.

A chunk read from a worker's pipe (``pump.Stream``) goes to sinks, each with ``feed(data)`` and
``end()``: its log file and the filtered copy (``files``), the console by way of a presenter
(``lines``: whole lines, prefixes, progress bars; folding of identical lines across ranks would be
another presenter), and the ring of last words (``recent``). ``outlet`` writes to the launcher's own
console without ever blocking; ``directory`` lays out the files; ``logs.Logs`` puts all together.
"""

from rallypoint.logs.logs import Logs, Stdio

__all__ = ["Logs", "Stdio"]
