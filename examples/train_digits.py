"""Train a small network on scikit-learn's 1,797 handwritten digits, on several processes and nodes.

    rallyrun --nproc-per-node 2 examples/train_digits.py            (torchrun takes it as well)

Plain DistributedDataParallel on CPU. What makes it elastic is a snapshot after each epoch, and that a
process which starts looks for one: killed at any moment, the job goes on from its last whole epoch.
``--fail-at-epoch 3`` has one worker kill itself on purpose, to watch that happen.
"""

import argparse
import os
import signal

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64, help="of all workers together")
    parser.add_argument("--snapshot", default="digits_snapshot.pt", help="on a disk that all nodes see")
    parser.add_argument("--fail-at-epoch", type=int, default=-1, help="a worker kills itself in this epoch, once")
    parser.add_argument("--fail-rank", type=int, default=1, help="which one")
    return parser.parse_args()


def load_data():
    """Return (train, test). The split is the same in every process and after every restart."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return TensorDataset(images[360:], labels[360:]), TensorDataset(images[:360], labels[:360])


def make_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def save_snapshot(path, epoch, model, optimizer):
    """Write aside and rename: whoever looks, at any moment, finds a whole snapshot."""
    content = {"epoch": epoch, "model": model.module.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(content, path + ".new")
    os.replace(path + ".new", path)


def load_snapshot(path, model, optimizer):
    """Return the epoch to start with: 0, or the one after the snapshot's."""
    if not os.path.exists(path):
        return 0
    content = torch.load(path, weights_only=True)
    model.module.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    return content["epoch"] + 1


def train_epoch(model, optimizer, loader):
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()  # DDP averages the gradients of all workers in here
        optimizer.step()
    return loss.item()


def accuracy(model, data):
    """Each worker counts its share of the test images; the sum is everybody's."""
    images, labels = data.tensors
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    model.eval()
    with torch.no_grad():
        right = (model.module(images[mine]).argmax(1) == labels[mine]).sum()
    dist.all_reduce(right)
    return right.item() / len(labels)


def main():
    args = parse_arguments()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")  # everything it needs is in the environment that the launcher set
    rank, world_size = dist.get_rank(), dist.get_world_size()
    restart = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))

    train, test = load_data()
    sampler = DistributedSampler(train, seed=0)
    loader = DataLoader(train, batch_size=max(1, args.batch_size // world_size), sampler=sampler)
    model = DistributedDataParallel(make_model())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    first = load_snapshot(args.snapshot, model, optimizer)
    if rank == 0:
        print(f"start {restart}: {world_size} workers, from epoch {first}", flush=True)

    for epoch in range(first, args.epochs):
        sampler.set_epoch(epoch)
        loss = train_epoch(model, optimizer, loader)
        if epoch == args.fail_at_epoch and rank == args.fail_rank and restart == 0:
            print(f"rank {rank} kills itself in epoch {epoch}, as asked", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 0:
            save_snapshot(args.snapshot, epoch, model, optimizer)
            print(f"epoch {epoch}: loss {loss:.4f}", flush=True)

    found = accuracy(model, test)
    if rank == 0:
        print(f"test accuracy {found:.4f} after {args.epochs} epochs, {restart} restarts", flush=True)
    dist.barrier()  # nobody takes the group down while a peer still talks
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
