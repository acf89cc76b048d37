"""The socket of a machine's own command line: wherever its home is, and for its owner alone."""

import asyncio
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import grpc
import pytest

from cluster import control_socket
from cluster.errors import TrustError
from cluster.home import Home
from tests.patience import PATIENCE_S

CONNECT = "import os, socket, sys; os.setuid(int(sys.argv[2])); socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
NOBODY = "65534"


@pytest.fixture
def _own_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def server_at(path: Path) -> grpc.aio.Server:
    async def echo(request: bytes, _: object) -> bytes:
        return request

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", {"Echo": handler}),))
    server.add_insecure_port(control_socket.target(path))
    return server


@pytest.mark.usefixtures("_own_temporary_files")
@pytest.mark.parametrize("name", ["home", "Application Support #1 %41 ü", "a" * 200])
def test_it_answers_in_every_home_and_its_mode_is_0600(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path / name)
    home.create()

    async def call() -> bytes:
        with control_socket.private_path(home) as path:
            server = server_at(path)
        await server.start()
        try:
            control_socket.require_own(home, path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            async with grpc.aio.insecure_channel(control_socket.target(path)) as channel:
                echo: Any = channel.unary_unary("/test.Test/Echo")
                return bytes(await echo(name.encode(), timeout=PATIENCE_S))
        finally:
            await server.stop(None)

    assert asyncio.run(call()) == name.encode()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_cannot_open_it() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # as a home that a person has made may be

        async def knock() -> str:
            with control_socket.private_path(Home(Path(directory))) as path:
                server = server_at(path)
            await server.start()
            try:
                command = [sys.executable, "-c", CONNECT, str(path)]
                subprocess.run([*command, "0"], check=True)
                return subprocess.run([*command, NOBODY], check=False, capture_output=True, text=True).stderr
            finally:
                await server.stop(None)

        assert "PermissionError" in asyncio.run(knock())


@pytest.mark.usefixtures("_own_temporary_files")
def test_a_directory_that_others_may_enter_is_not_used(tmp_path: Path) -> None:
    home = Home(tmp_path / ("a" * 200))
    home.create()
    with control_socket.private_path(home) as path:
        path.touch()
    path.parent.chmod(0o755)
    with pytest.raises(TrustError, match="not a directory of this user alone"):
        control_socket.require_own(home, path)
    with pytest.raises(TrustError), control_socket.private_path(home):
        pass
