"""A worker, as a process: it can be interrupted while it loads."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from cluster.placement import Placement, StagePlacement
from cluster.wire import worker_pb2 as pb
from cluster.worker import pipe
from tests.patience import PATIENCE_S

LOADS_FOR_EVER = """
import time
from cluster.worker.process import main

def load(*_):
    print("loading", flush=True)  # goes to standard error
    while True:
        time.sleep(0.01)

main(load)
"""


def test_sigterm_interrupts_a_load_in_order(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    placement = Placement("demo", "", (StagePlacement("a", range(6)),), 512, 1, 512, {})
    command = pb.LoadShard(model="demo", epoch=1, placement=json.dumps(placement.to_json()))
    arguments = (str(tmp_path), "a", "mac-1", "127.0.0.1", "--insecure")
    with subprocess.Popen(
        [sys.executable, "-c", LOADS_FOR_EVER, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stderr is not None
        worker.stdin.write(pipe.framed(pb.WorkerCommand(load=command)))
        worker.stdin.flush()
        assert worker.stderr.readline() == b"loading\n"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0
        assert b"Traceback" not in worker.stderr.read()
