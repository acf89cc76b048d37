"""A ring of processes that forward bytes over raw TCP: the baseline of `bench.hop`."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

HOST = "127.0.0.1"


class TCPRing:
    """The first process of the ring."""

    def __init__(self, before: socket.socket, after: socket.socket, payload: bytes) -> None:
        self._before = before
        self._after = after
        self._payload = payload
        self._buffer = bytearray(len(payload))

    def round_trip_s(self) -> float:
        """Send the payload around the ring; return the seconds until all of it is back."""
        started = time.perf_counter()
        self._after.sendall(self._payload)
        _receive(self._before, self._buffer)
        return time.perf_counter() - started


@contextmanager
def tcp_ring(n_processes: int, payload: bytes) -> Iterator[TCPRing]:
    """Open a ring of this process and `n_processes` - 1 others."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HOST, 0)))
        port = int(listener.getsockname()[1])
        for _ in range(n_processes - 1):  # from the last one to the second
            command = [sys.executable, "-m", "bench.tcp_ring", str(port), str(len(payload))]
            process = stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            assert process.stdout is not None
            port = int(process.stdout.readline())
        after = stack.enter_context(_connected(port))
        before = stack.enter_context(_accepted(listener))
        yield TCPRing(before, after, payload)


def _forward(next_port: int, size: int) -> None:
    """Listen on a free port and print it; forward messages of `size` bytes until the ring is closed."""
    with socket.create_server((HOST, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        with _connected(next_port) as after, _accepted(listener) as before:
            buffer = bytearray(size)
            while _receive(before, buffer):
                after.sendall(buffer)


def _receive(connection: socket.socket, buffer: bytearray) -> bool:
    """Fill the buffer; return False if the other end has closed the connection."""
    view = memoryview(buffer)
    while view:
        n = connection.recv_into(view)
        if not n:
            return False
        view = view[n:]
    return True


def _connected(port: int) -> socket.socket:
    return _prompt(socket.create_connection((HOST, port)))


def _accepted(listener: socket.socket) -> socket.socket:
    return _prompt(listener.accept()[0])


def _prompt(connection: socket.socket) -> socket.socket:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


if __name__ == "__main__":
    _forward(int(sys.argv[1]), int(sys.argv[2]))
