"""Wire: the generated code is that of proto/."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_generated_code_is_fresh(tmp_path: Path) -> None:
    protos = [f"cluster/wire/{path.name}" for path in sorted((ROOT / "proto").glob("*.proto"))]
    out = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-Icluster/wire={ROOT / 'proto'}", *out, *protos]
    subprocess.run(command, check=True)
    generated = {path.name: path.read_text() for path in (tmp_path / "cluster" / "wire").iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "cluster" / "wire").glob("*_pb2*.py*")}
    assert len(generated) == 3 * len(protos)
    assert committed == generated
