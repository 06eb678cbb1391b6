"""``python -m rallypoint.launch``: stands in for ``python -m torch.distributed.launch``.

The same as ``rallyrun``, but the script gets ``--local-rank=N`` as its first argument unless
``--use-env`` is given. Kept for old job scripts; new ones use ``rallyrun`` and read LOCAL_RANK.

Called as a function, this module is ``rallypoint.launch(fn, ...)``, see ``rallypoint.api``: a package
cannot have a module and a function of the same name otherwise.
"""

from __future__ import annotations

import sys
from types import ModuleType

from rallypoint.api import launch as __wrapped__  # by this name, inspect.signature and help() find it

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run the legacy form with ``argv`` (None: the process's own) and return its exit status."""
    from rallypoint.cli.rallyrun import launch

    return launch(sys.argv[1:] if argv is None else argv, "python -m rallypoint.launch", legacy=True)


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> list[Any]:
        return __wrapped__(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule

if __name__ == "__main__":
    sys.exit(main())
