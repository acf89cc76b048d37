"""Weights from another node against a raw TCP copy of the same bytes: python -m bench.weights CHECKPOINT.

Three nodes, of which only the first has the checkpoint. Linux only, as `bench.worker_memory`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

from bench.measurement import layer_shares
from bench.nodes import Nodes, greedy, running_nodes
from bench.worker_memory import peak_bytes
from cluster.client import RemoteModel, Wanted
from mlx_moe.checkpoint import library

HOST = "127.0.0.1"
NAME = "only-on-node-1"
CHUNK_BYTES = 1 << 20
PROMPT_TOKENS, ANSWER_TOKENS = 16, 40
ROUNDS = 3


def main(path: str) -> None:
    """Print one measurement after the other."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        os.symlink(Path(path).resolve(), Path(folder) / NAME)
        with running_nodes([{0, 1}] * 3, {library.FOLDERS_VARIABLE: folder}) as nodes:
            plan = replace(nodes.placement(path, layer_shares(path, 3)), model=NAME)
            for _ in range(ROUNDS):
                nodes.unload()
                seconds, told = _load(nodes, Wanted(NAME, plan))
                moved = sum(told.values())
                raw_s = _raw_copy_s(Path(path), moved)
                print(
                    f"{moved / 1e6:.0f} MB from node-1 ({json.dumps(told)}) in {seconds:.2f} s, raw TCP {raw_s:.2f} s: "
                    f"{raw_s / seconds:.2f} of its rate",
                    flush=True,
                )
            _print_memory(nodes)
            kept = sum(size for home in nodes.homes[1:] for size in _sizes(home.path))
            print(f"on the disks of node-2 and node-3: {kept / 1e3:.0f} kB in all, no weights")
            _disturb(nodes, Wanted(NAME, plan))
            of_three = _tokens(nodes.model())[1]
            of_one = _tokens(nodes.load(path, layer_shares(path, 1)))[1]
            print(f"{len(of_three)} tokens, equal to those of one node: {of_three == of_one}")


def _load(nodes: Nodes, wanted: Wanted) -> tuple[float, dict[str, int]]:
    """Load a model; return the seconds in which bytes were read, and the bytes that each node read of another."""
    told: dict[str, int] = {}
    began = ended = time.perf_counter()
    for status in nodes.own.load(wanted):
        if not any(node.done_bytes for node in status.nodes):
            began = time.perf_counter()
        if any(node.done_bytes < node.total_bytes for node in status.nodes):
            ended = time.perf_counter()
        told |= {node.name: node.total_bytes for node in status.nodes if node.source}
    return ended - began, told


def _sizes(directory: Path) -> list[int]:
    return [path.stat().st_size for path in directory.rglob("*") if path.is_file()]


def _raw_copy_s(directory: Path, nbytes: int) -> float:
    """Copy bytes of the weight files to another process over plain TCP; return the seconds."""
    with socket.create_server((HOST, 0)) as listener:
        command = [sys.executable, "-m", "bench.weights", str(directory), str(listener.getsockname()[1]), str(nbytes)]
        with subprocess.Popen(command) as sender:
            connection, _ = listener.accept()
            memory = memoryview(bytearray(nbytes))
            started = time.perf_counter()
            done = 0
            while done < nbytes and (n := connection.recv_into(memory[done : done + CHUNK_BYTES])):
                done += n
            seconds = time.perf_counter() - started
            connection.close()
            sender.wait()
    assert done == nbytes
    return seconds


def _send(directory: Path, port: int, nbytes: int) -> None:
    buffer = memoryview(bytearray(CHUNK_BYTES))
    with socket.create_connection((HOST, port)) as connection:
        for path in sorted(directory.glob("*.safetensors")):
            with path.open("rb", buffering=0) as file:
                while nbytes and (n := file.readinto(buffer[: min(CHUNK_BYTES, nbytes)])):
                    connection.sendall(buffer[:n])
                    nbytes -= n


def _print_memory(nodes: Nodes) -> None:
    for node, worker in zip(nodes.status(), nodes.workers(), strict=True):
        held = node.holding.weights_bytes if node.holding else 0
        peak, bound = peak_bytes(worker), 1.15 * held + 150e6
        print(
            f"{node.shown_name}: shard {held / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB, bound {bound / 1e6:.0f} MB: "
            f"{peak / bound:.2f}"
        )


def _tokens(model: RemoteModel) -> tuple[float, list[int]]:
    """Return the tokens per second of an answer, and the tokens."""
    answer = model.new_conversation().answer(greedy(PROMPT_TOKENS, ANSWER_TOKENS))
    tokens = [token.id for token in answer]
    return answer.stats.decode_tps, tokens


def _disturb(nodes: Nodes, wanted: Wanted) -> None:
    """Print the speed of an answer alone, and while the whole model is copied to the third node's disk."""
    model = nodes.model()
    for _ in range(ROUNDS):
        alone, _ = _tokens(model)
        copied = Copying(nodes, wanted)
        disturbed, _ = _tokens(model)
        print(
            f"{alone:.2f} tokens/s alone, {disturbed:.2f} while {copied.end() / 1e6:.0f} MB/s are copied: "
            f"{disturbed / alone:.2f}",
            flush=True,
        )


class Copying:
    """A copy of the whole model to the third node's disk, until `end`."""

    def __init__(self, nodes: Nodes, wanted: Wanted) -> None:
        self._nodes = nodes
        self._done_bytes = 0
        self._started = time.perf_counter()
        self._thread = threading.Thread(target=self._run, args=(wanted,))
        self._thread.start()

    def end(self) -> float:
        """End it, and delete what was copied; return its bytes per second."""
        rate = self._done_bytes / (time.perf_counter() - self._started)
        self._thread.join()
        shutil.rmtree(self._nodes.homes[2].models)
        return rate

    def _run(self, wanted: Wanted) -> None:
        for (progress,) in self._nodes.own.pull(wanted, ["node-3"]):
            self._done_bytes = progress.done_bytes


if __name__ == "__main__":
    if len(sys.argv) > 2:
        _send(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    else:
        main(sys.argv[1])
