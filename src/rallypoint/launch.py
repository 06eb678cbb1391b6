"""``python -m rallypoint.launch``: stands in for ``python -m torch.distributed.launch``.

The same as ``rallyrun``, but the script gets ``--local-rank=N`` as its first argument unless
``--use-env`` is given. Kept for old job scripts; new ones use ``rallyrun`` and read LOCAL_RANK.
"""

from __future__ import annotations

import sys

from rallypoint.cli.rallyrun import launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the legacy form with ``argv`` (None: the process's own) and return its exit status."""
    return launch(sys.argv[1:] if argv is None else argv, "python -m rallypoint.launch", legacy=True)


if __name__ == "__main__":
    sys.exit(main())
