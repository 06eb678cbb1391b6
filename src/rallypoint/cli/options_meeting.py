"""The options about what is run, on which nodes, and how these meet."""

from __future__ import annotations

from rallypoint.cli.option import FLAG, LEGACY, MAYBE, OWN, Option

WHAT = (
    Option(
        "--module",
        "",
        "",
        "The program is a module: run it as python -m does.",
        short="-m",
        kind=FLAG,
    ),
    Option(
        "--no-python",
        "",
        "",
        "The program is any command: run it as it is, without python in front.",
        kind=FLAG,
    ),
    Option(
        "--run-path",
        "",
        "",
        "Run the script with runpy.run_path under the launcher's own interpreter. Goes before --no-python.",
        kind=FLAG,
    ),
    Option(
        "--use-env",
        "",
        "",
        "Do not pass --local-rank=N to the script; it reads LOCAL_RANK.",
        kind=FLAG,
        origin=LEGACY,
    ),
)

NODES = (
    Option(
        "--nnodes",
        "MIN[:MAX]",
        "1:1",
        "Number of nodes, or a range: start with MIN, take in more up to MAX.",
    ),
    Option(
        "--nproc-per-node",
        "N",
        "1",
        "Workers on this node: a number, cpu (one for each core allowed), gpu or xpu (one for each NVIDIA or Intel GPU "
        "visible), auto (the first of gpu, xpu, cpu that there is).",
    ),
    Option(
        "--node-rank",
        "N",
        "0",
        "This node's place, from 0, with --rdzv-backend static.",
    ),
    Option(
        "--role",
        "NAME",
        "default",
        "What the workers of this node are called (ROLE_NAME).",
    ),
    Option(
        "--local-addr",
        "ADDR",
        "",
        "Address at which other nodes reach this one. Without it: the address from which this node reached the store.",
    ),
)

RENDEZVOUS = (
    Option(
        "--standalone",
        "",
        "",
        "One node, with a private store. So it is too when nothing is said about rendezvous.",
        kind=FLAG,
    ),
    Option(
        "--rdzv-backend",
        "NAME",
        "static",
        "c10d: nodes meet at --rdzv-endpoint and may come and go. static: each has its --node-rank. etcd: at the "
        "members of etcd. file: in a folder that they share.",
    ),
    Option(
        "--rdzv-endpoint",
        "HOST[:PORT],...",
        "",
        "Where the nodes meet, the same on every node. Port if not said: 29400 (c10d: one, or three and more of which "
        "a majority keeps the store), 29500 (static: one), 2379 (etcd: its members). A folder with file.",
    ),
    Option(
        "--rdzv-id",
        "ID",
        "none",
        "Name of the run, the same on every node. One node alone makes up a random one.",
    ),
    Option(
        "--rdzv-conf",
        "KEY=VALUE,...",
        "",
        "join_timeout (600 s), last_call_timeout (30), close_timeout (30), read_timeout (60), keep_alive_interval (5), "
        "keep_alive_max_attempt (3), is_host, rank, timeout (torch's other name for join_timeout), store_type (tcp).",
    ),
    Option(
        "--master-addr",
        "ADDR",
        "127.0.0.1",
        "Address of node 0, with static.",
    ),
    Option(
        "--master-port",
        "PORT",
        "29500",
        "Port on node 0, with static.",
    ),
)

MEMBERSHIP = (
    Option(
        "--preflight",
        "[=COMMAND]",
        "",
        "Look before joining: memory, /dev/shm, open files, GPUs, clock, and whether the first node can be reached; "
        "and run COMMAND by the shell. A node that fails is kept out and named. (rallypoint doctor looks by hand.)",
        kind=MAYBE,
        origin=OWN,
    ),
    Option(
        "--admit",
        "WHEN",
        "now",
        "When nodes that come while a round runs are taken in (up to MAX of --nnodes): now, at the next restart "
        "(at-restart), or once the workers say that nothing would be lost (when-ready).",
        choices=("now", "at-restart", "when-ready"),
        origin=OWN,
    ),
    Option(
        "--join-interval",
        "SECONDS",
        "1",
        "Nodes that come while a round runs are gathered for this long and taken in together.",
        origin=OWN,
    ),
    Option(
        "--spares",
        "N",
        "0",
        "Keep N nodes as spares before the run grows beyond MIN. Nodes over MAX stand by in any case.",
        origin=OWN,
    ),
    Option(
        "--max-node-failures",
        "N",
        "",
        "A node whose workers were the cause of N failures is put aside for the rest of the run.",
        origin=OWN,
    ),
    Option(
        "--topology",
        "KEY",
        "",
        "Where this node is in the network, so that neighbours get neighbouring ranks: env:NAME, file:PATH, "
        "cmd:COMMAND, or the key itself.",
        origin=OWN,
    ),
    Option(
        "--leave-signals",
        "NAMES",
        "",
        "Signals that tell this node to leave (a notice of preemption): the others go on without it.",
        origin=OWN,
    ),
    Option(
        "--notice-signal",
        "NAME",
        "",
        "Signal that the workers get before a planned stop (a node joins or leaves), --notice-grace before the stop.",
        origin=OWN,
    ),
    Option(
        "--notice-grace",
        "SECONDS",
        "30",
        "How long workers have from --notice-signal to the stop.",
        origin=OWN,
    ),
)
