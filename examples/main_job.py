"""The main job: train_digits.py on 2 nodes x 2 workers of this machine; one worker is killed half-way.

    python examples/main_job.py

Each "node" is a rallyrun of its own; they find each other at a port of 127.0.0.1, as two machines
would at a host name. Ends with the job's exit status.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading

NODES = 2
HERE = os.path.dirname(os.path.abspath(__file__))


def rallyrun():
    """Return the command: the one installed next to this Python, wherever PATH points."""
    beside = os.path.join(os.path.dirname(sys.executable), "rallyrun")
    return [beside] if os.path.exists(beside) else [sys.executable, "-m", "rallypoint", "run"]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def show(node, stream):
    for line in stream:
        print(f"node {node} | {line}", end="", flush=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        command = [*rallyrun(), "--nnodes", str(NODES), "--nproc-per-node", "2", "--max-restarts", "2"]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "digits"]
        command += [os.path.join(HERE, "train_digits.py"), "--snapshot", os.path.join(folder, "snapshot.pt")]
        command += ["--fail-at-epoch", "4", "--fail-rank", "3"]
        print(" ".join(command), flush=True)
        environ = {"OMP_NUM_THREADS": "1", **os.environ}
        nodes = [
            subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for _ in range(NODES)
        ]
        # A signal for this script is one for the job. (Ctrl-C in a terminal reaches the nodes by itself.)
        signal.signal(signal.SIGTERM, lambda number, frame: [node.send_signal(number) for node in nodes])
        signal.signal(signal.SIGINT, lambda number, frame: None)
        readers = [threading.Thread(target=show, args=(n, node.stdout)) for n, node in enumerate(nodes)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        codes = [node.wait() for node in nodes]
    print(f"the nodes ended with {', '.join(map(str, codes))}")
    return next((code if code > 0 else 128 - code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main())
