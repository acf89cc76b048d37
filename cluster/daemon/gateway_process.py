"""GatewayProcess: the gateway of this node, a child process that is started again when it ends by itself."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError

log = logging.getLogger(__name__)

START_S = 30.0
END_S = 8.0
"""Longer than the gateway lets answers go on after its end was asked for."""

AGAIN_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses before it is started again; the last one is repeated. One that lived for STEADY_S begins anew."""

STEADY_S = 60.0


class GatewayProcess:
    """Keeps at most one gateway. Its log is `log_path`."""

    def __init__(self, home: Path, log_path: Path) -> None:
        self._home = home
        self._log_path = log_path
        self._keeping: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def start(self, options: Mapping[str, Any]) -> str:
        """Start a gateway in place of the present one; return its URL.

        `options` are the fields of `cluster.client.gateway_options.GatewayOptions`.

        Raises:
            ClusterError: its port is taken, or it does not start.
        """
        await self.stop()
        port = await self._launch(options)
        host = options.get("host", "")
        scheme = "https" if options.get("certificate") else "http"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        self._keeping = asyncio.create_task(self._keep({**options, "port": port}))
        return self.url

    async def stop(self) -> None:
        """End the gateway, if there is one."""
        if self._keeping is not None:
            self._keeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeping
        self._keeping, self.url = None, ""
        await self._end()

    async def _launch(self, options: Mapping[str, Any]) -> int:
        """Start the process and return the port that it listens on."""
        with self._log_path.open("ab") as output:
            process = self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "cluster.gateway", str(self._home), json.dumps(options)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                start_new_session=True,  # Ctrl-C at the daemon's terminal is the daemon's to handle
            )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_S):
                line = await process.stdout.readline()
        except TimeoutError:
            line = b""
        started = json.loads(line) if line else {"error": f"the gateway does not start; see {self._log_path}"}
        if "error" in started:
            await self._end()
            raise ClusterError(started["error"])
        log.info("event=gateway_started pid=%d port=%d", process.pid, started["port"])
        return int(started["port"])

    async def _keep(self, options: Mapping[str, Any]) -> None:
        """Start the gateway again, on the same port, whenever it has ended."""
        loop = asyncio.get_running_loop()
        n_again, started_at = 0, loop.time()
        while True:
            if self._process is not None:
                code = await self._process.wait()
                log.warning("event=gateway_ended code=%s", code)
            n_again = 0 if loop.time() - started_at > STEADY_S else n_again + 1
            await asyncio.sleep(AGAIN_S[min(n_again, len(AGAIN_S) - 1)])
            started_at = loop.time()
            with suppress(ClusterError):
                await self._launch(options)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
