"""What a node arranges only when it is asked to."""

import os

from rallypoint.driver.loop import Loop
from rallypoint.driver.services import Services
from rallypoint.model.spec import Spec


def test_nothing_is_arranged_for_nobody():
    with Loop() as loop:
        services = Services(Spec(("true",), {}), loop, "m", print)
        assert repr(services) == "<Services []>" and services.cores(0) == 0
        with services.place(0):
            pass
        services.close()


def test_workers_learn_where_the_timer_is(tmp_path):
    with Loop() as loop:
        spec = Spec(("true",), {"TORCHELASTIC_ENABLE_FILE_TIMER": "1", "TMPDIR": str(tmp_path)})
        services = Services(spec, loop, "m", print)
        path = services.spec.environ["TORCHELASTIC_TIMER_FILE"]
        assert path == str(tmp_path / "watchdog_timer_m") and os.path.exists(path)
        services.close()
        assert not os.path.exists(path)
