"""What befalls a simulated cluster, as a frozen plan that can be printed, shrunk and played again."""

from __future__ import annotations

import random

from rallypoint.model.spec import ADMISSIONS, JOB, NODE, WORKER, ExitRule, Membership, RestartPolicy, Spec, Timing
from rallypoint.model.value import Value
from rallypoint.testing.simulated_workers import Script
from rallypoint.testing.simulator import Cluster

ACTIONS = (
    "start",
    "kill",
    "freeze",
    "thaw",
    "cut",
    "mend",
    "reset",
    "slow",
    "signal",
    "again",
    "leave",
    "store",
    "host",
    "revive",
)
LEAVE = 12
PAUSES = (0.0, 0.002, 0.01, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0)


class Plan(Value):
    """``steps``: (pause before it, action, which node). The rest is the run's own configuration."""

    seed: int
    min_nodes: int
    spare: int
    nproc: int = 1
    max_restarts: int = 3
    last_call: float = 1.0
    grace: float = 1.0
    success: float | None = None
    static: bool = False
    skew: float = 0.0
    members: Membership = Membership(join_interval=0.0)
    restart: RestartPolicy = RestartPolicy()
    regroup: float = 0.0
    steps: tuple[tuple[float, str, int], ...] = ()

    @property
    def spec(self) -> Spec:
        timing = Timing(
            last_call_timeout=self.last_call,
            keep_alive_interval=1.0,
            shutdown_timeout=self.grace,
            kill_timeout=2.0,
            success_timeout=self.success,
            regroup_grace=self.regroup,
        )
        return Spec(
            argv=("train",),
            environ={},
            backend="static" if self.static else "tcp",
            endpoint="10.0.0.1:29500",
            min_nodes=self.min_nodes,
            max_nodes=self.min_nodes + (0 if self.static else self.spare),
            nproc=self.nproc,
            max_restarts=self.max_restarts,
            timing=timing,
            membership=self.members,
            restart=self.restart,
        )


def random_members(rng: random.Random) -> Membership:
    return Membership(
        admit=rng.choice(ADMISSIONS),
        join_interval=rng.choice((0.0, 0.5, 2.0)),
        spares=rng.choice((0, 0, 0, 1)),
        leave_signals=(LEAVE,),
        notice_signal=rng.choice((None, 10)),
        notice_grace=rng.choice((0.0, 1.0, 4.0)),
        max_node_failures=rng.choice((None, None, 2)),
    )


def random_restart(rng: random.Random) -> RestartPolicy:
    rule = rng.choice(("fail", "replace-node", "ignore", "restart"))
    return RestartPolicy(
        window=rng.choice((None, None, 5.0)),
        delay=rng.choice((0.0, 0.0, 0.5)),
        rules=rng.choice(((), (), (ExitRule("3", rule),))),
        scope=rng.choice((JOB, JOB, NODE, WORKER)),
    )


def random_plan(seed: int) -> Plan:
    rng = random.Random(seed)
    restart = random_restart(rng)
    steps = [
        (rng.choice(PAUSES) * rng.random(), rng.choice(ACTIONS), rng.randrange(6)) for _ in range(rng.randint(3, 14))
    ]
    return Plan(
        seed=seed,
        min_nodes=rng.randint(1, 3),
        spare=rng.randint(0, 2),
        nproc=rng.choice((1, 1, 2, 3)),
        max_restarts=rng.choice((0, 1, 3, 1000)),
        last_call=rng.choice((0.0, 1.0, 3.0)),
        grace=rng.choice((0.0, 1.0, 5.0)),
        success=rng.choice((None, None, 4.0)) if restart.scope == JOB else None,
        static=rng.random() < 0.15,
        steps=tuple(steps),
        skew=rng.choice((0.0, 0.0, 0.001, 0.05)),
        members=random_members(rng),
        restart=restart,
        regroup=rng.choice((0.0, 0.0, 3.0)),
    )


class Player:
    """Plays one plan to the end: faults first, then calm, in which every node must end."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.calm = False
        self.rng = random.Random(plan.seed)
        self.cluster = Cluster(plan.spec, plan.seed, lambda _name, _order: self.script(), plan.skew)

    def script(self) -> Script:
        rng = self.rng
        if self.calm:
            return Script(after=rng.choice((5.0, 6.0)), saves=rng.choice((0.0, 0.5)))
        manners = {
            "saves": rng.choice((0.0, 0.0, 0.5, 3.0, None)),
            "leaves": rng.choice((None, None, 1.0, float("inf"))),
            "starts": rng.choice((0.0, 0.0, 0.3)),
            "unkillable": rng.choice((*[0.0] * 9, 30.0)),
        }
        kind = rng.random()
        if kind < 0.25:
            return Script(after=rng.uniform(0, 8), code=rng.choice((1, 3, 42)), **manners)
        if kind < 0.30:
            return Script(after=rng.uniform(0, 8), signal=9, **manners)
        if kind < 0.35:
            return Script(after=rng.uniform(0, 8), code=1, last_lines=("Connection closed by peer",), **manners)
        if kind < 0.50:
            return Script(after=rng.uniform(0, 12), **manners)
        if kind < 0.52:
            return Script(refuses="no such file")
        return Script(**manners)

    def play(self) -> Cluster:
        cluster, plan = self.cluster, self.plan
        for _ in range(plan.min_nodes + self.rng.randint(0, plan.spare + 1)):
            self.start()
            cluster.run_for(self.rng.choice((0.0, 0.01, 0.5)))
        for pause, action, which in plan.steps:
            cluster.run_for(pause)
            self.act(action, which)
        self.calm_down()
        return cluster

    def start(self) -> None:
        cluster = self.cluster
        if len(cluster.live) >= 7 or len(cluster.nodes) >= 60:
            return
        spec = cluster.spec
        if self.plan.static:
            taken = {n.agent.info.node_rank for n in cluster.live}
            spec = spec.replace(node_rank=next((r for r in range(spec.max_nodes) if r not in taken), 0))
        cluster.start(f"n{len(cluster.nodes) + 1}", spec)

    def act(self, action: str, which: int) -> None:
        cluster = self.cluster
        live = [n.name for n in cluster.live]
        if action == "start":
            self.start()
        elif action in ("store", "host"):
            cluster.kill_store()
            if action == "host" and live:
                cluster.kill(live[which % len(live)])
                cluster.run_for(self.rng.random())
                cluster.revive_store()
        elif action == "revive":
            cluster.revive_store()
        elif live:
            self.act_on(action, live[which % len(live)], live)

    def act_on(self, action: str, name: str, live: list[str]) -> None:
        cluster = self.cluster
        if action in ("thaw", "mend"):
            for each in live:
                getattr(cluster, action)(each)
        elif action == "slow":
            cluster.slow(name, self.rng.choice((0.001, 0.05, 0.5)))
        elif action == "leave":
            cluster.signal(name, LEAVE)
        elif action in ("signal", "again"):
            cluster.signal(name, self.rng.choice((2, 15)))
            if action == "again":
                cluster.signal(name, 2)
        else:
            getattr(cluster, action)(name)

    def calm_down(self) -> None:
        """No more faults; workers end well. With enough nodes, everybody must come to an end."""
        cluster = self.cluster
        self.calm = True
        cluster.say("", "CALM")
        cluster.revive_store()
        for at in cluster.live:
            cluster.thaw(at.name)
            cluster.mend(at.name)
            cluster.slow(at.name, 0.001)
            for process in list(at.processes.workers.values()):
                at.processes.end_soon(process, self.rng.uniform(3.0, 6.0))
        for _ in range(30):
            while cluster.live and len(cluster.live) < self.plan.min_nodes and len(cluster.nodes) < 60:
                self.start()
            if cluster.run_until(lambda: not cluster.live, 20.0):
                return
        cluster.laws.fail("the faults are over, and yet not every node came to an end")


def play(plan: Plan) -> Cluster:
    return Player(plan).play()
