"""Data-parallel training without torch: softmax regression on handwritten digits, in numpy.

    rallyrun --nproc-per-node 4 --max-restarts 1 examples/train_numpy.py

The workers add up their gradients through the launcher's own worker store, with the small client in
``rallypoint.worker.store``. That is right for a few thousand numbers a step. The weights are saved now
and then, so a job that was killed goes on where it was.
"""

import argparse
import os
import signal

import numpy as np
from sklearn.datasets import load_digits

from rallypoint.worker import safe_point, store


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=0.5, help="learning rate")
    parser.add_argument("--snapshot", default="numpy_snapshot.npz", help="on a disk that all nodes see")
    parser.add_argument("--fail-at-step", type=int, default=-1, help="the last worker kills itself there, once")
    return parser.parse_args()


class Group:
    """All workers of the job, who meet in the worker store."""

    def __init__(self):
        self.rank = int(os.environ["RANK"])
        self.size = int(os.environ["WORLD_SIZE"])
        self.meeting = store.connect(timeout=60)
        self.round = 0

    def sum(self, mine):
        """Return the sum of everybody's array: each puts its own there and reads the others'."""
        self.round += 1
        self.meeting.set(f"{self.round}/{self.rank}", mine.tobytes())
        parts = [self.meeting.get(f"{self.round}/{rank}") for rank in range(self.size)]
        if self.round > 2:  # everybody is past the round before the last: its keys are garbage
            self.meeting.delete(f"{self.round - 2}/{self.rank}")
        return sum(np.frombuffer(part, mine.dtype).reshape(mine.shape) for part in parts)


def load_data():
    """Return (images, labels) for training and for the test, each image with a 1 for the bias."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = np.c_[digits.data / 16, np.ones(len(order))][order]
    labels = digits.target[order]
    return (images[360:], labels[360:]), (images[:360], labels[:360])


def gradient(weights, images, labels):
    scores = images @ weights
    chances = np.exp(scores - scores.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    chances[np.arange(len(labels)), labels] -= 1
    return images.T @ chances


def main():
    args = parse_arguments()
    group = Group()
    restart = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    (images, labels), (test_images, test_labels) = load_data()
    mine = slice(group.rank, None, group.size)  # this worker's share

    weights, first = np.zeros((images.shape[1], 10)), 0
    if os.path.exists(args.snapshot):
        with np.load(args.snapshot) as saved:
            weights, first = saved["weights"], int(saved["step"])
    group.meeting.barrier("snapshot read", group.size)  # before rank 0 writes the next one
    if group.rank == 0:
        print(f"start {restart}: {group.size} workers, from step {first}", flush=True)

    for step in range(first, args.steps):
        weights -= args.rate / len(labels) * group.sum(gradient(weights, images[mine], labels[mine]))
        if step == args.fail_at_step and group.rank == group.size - 1 and restart == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if (step + 1) % 20 == 0:
            if group.rank == 0:
                with open(args.snapshot + ".new", "wb") as file:
                    np.savez(file, weights=weights, step=step + 1)
                os.replace(args.snapshot + ".new", args.snapshot)
            safe_point(step + 1)  # with --admit when-ready new nodes are taken in here

    if group.rank == 0:
        found = ((test_images @ weights).argmax(1) == test_labels).mean()
        print(f"test accuracy {found:.4f} after {args.steps} steps, {restart} restarts", flush=True)
    group.meeting.barrier("end", group.size)


if __name__ == "__main__":
    main()
