"""Where the workers' output goes when the user's own class decides it (``LogSpec.reify``)."""

from __future__ import annotations

from rallypoint.model.spec import Destination

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Reify = Callable[[dict[int, dict[str, str]]], Any]

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


def destinations(reify: Reify) -> Callable[[dict[int, dict[str, str]]], Mapping[int, Destination]]:
    """Wrap torch's ``LogsSpecs.reify``, which returns a ``LogsDest``: columns of paths by local rank.

    An error file that it names in an environment alone counts too. Whatever it raises goes on.
    """

    def decide(envs: dict[int, dict[str, str]]) -> dict[int, Destination]:
        dest = reify(envs)
        return {
            rank: Destination(
                stdout=str(dest.stdouts.get(rank, "")),
                stderr=str(dest.stderrs.get(rank, "")),
                tee_stdout=bool(dest.tee_stdouts.get(rank)),
                tee_stderr=bool(dest.tee_stderrs.get(rank)),
                error_file=str(dest.error_files.get(rank) or env.get(ERROR_FILE, "")),
                filtered_stdout=str(dest.filtered_stdout),
                filtered_stderr=str(dest.filtered_stderr),
            )
            for rank, env in envs.items()
        }

    return decide


class Decided:
    """Asks once for each start of this node's workers, as torch does, with the environments of all of them."""

    def __init__(self, reify: Callable[[dict[int, dict[str, str]]], Mapping[int, Destination]]) -> None:
        self._reify = reify
        self._round = -1
        self._envs: dict[int, dict[str, str]] = {}
        self._places: Mapping[int, Destination] = {}

    def of(
        self, round_: int, local_rank: int, envs: Callable[[], dict[int, dict[str, str]]]
    ) -> tuple[Destination, dict[str, str]]:
        """Return where a worker's output goes, and its environment as the user's class has left it.

        Raises whatever the user's class raises.
        """
        if round_ != self._round:
            self._envs = envs()
            self._places = self._reify(self._envs)
            self._round = round_
        return self._places.get(local_rank, Destination()), self._envs[local_rank]

    def __repr__(self) -> str:
        return f"<Decided for round {self._round}>"
