"""Data-parallel training in JAX on CPU: one linear model, each process with its share of the data.

    rallyrun --nproc-per-node 2 examples/train_jax.py

``jax.distributed.initialize`` wants the address of a coordinator, the number of processes and which one
this is. The last two are in the environment. For the first, rank 0 picks a free port and tells the
others through the launcher's worker store.
"""

import os
import socket

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rallypoint.worker import store


def coordinator():
    """Return "host:port", the same in every process; rank 0 serves there.

    Rank 0 runs on the node that MASTER_ADDR names.
    """
    with store.connect(timeout=60) as meeting:
        if os.environ["RANK"] == "0":
            with socket.socket() as sock:
                sock.bind(("", 0))
                port = sock.getsockname()[1]
            meeting.set("coordinator", f"{os.environ['MASTER_ADDR']}:{port}".encode())
        return meeting.get("coordinator").decode()


def make_data(rank, size):
    """Return this process's share of points near a line in 8 dimensions, and the line."""
    random = np.random.default_rng(0)
    truth = random.normal(size=8).astype(np.float32)
    inputs = random.normal(size=(1024, 8)).astype(np.float32)
    outputs = inputs @ truth + 0.01 * random.normal(size=1024).astype(np.float32)
    return inputs[rank::size], outputs[rank::size], truth


@jax.jit
def step(weights, inputs, outputs):
    """One descent. The mean runs over all processes' data: XLA adds what that needs between them."""

    def loss(weights):
        return jnp.mean((inputs @ weights - outputs) ** 2)

    return weights - 0.2 * jax.grad(loss)(weights)


def main():
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator(), num_processes=size, process_id=rank)
    print(f"rank {rank}: process {jax.process_index()} of {jax.process_count()}", flush=True)

    mesh = Mesh(jax.devices(), ("data",))
    split, same = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    inputs, outputs, truth = make_data(rank, size)
    inputs = jax.make_array_from_process_local_data(split, inputs)
    outputs = jax.make_array_from_process_local_data(split, outputs)
    weights = jax.device_put(jnp.zeros(8), same)
    for _ in range(50):
        weights = step(weights, inputs, outputs)

    found = np.asarray(weights.addressable_data(0))
    everybody = multihost_utils.process_allgather(found)  # one row for each process
    if rank == 0:
        agreed = bool((everybody == everybody[0]).all())
        print(f"error {np.abs(found - truth).max():.4f}, {size} processes agree: {agreed}", flush=True)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
