"""News: a node's messages on its terminal; never raises."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress

from rich.console import Console
from rich.text import Text

from cli.tokens import JOIN
from cli.units import duration_text
from cli.visible import visible
from cluster.client import ServingState, ServingStatus
from cluster.membership.address import is_loopback, is_scoped, join, split
from cluster.node.running import Change, Happening, JoinToken, NodeInfo
from cluster.node.tokens import LIFETIME_S
from mlx_moe.units import bytes_text

log = logging.getLogger(__name__)

_MARKS = {
    Happening.JOINED: ("+", "green"),
    Happening.BACK: ("+", "green"),
    Happening.LOST: ("-", "red"),
    Happening.LEFT: ("-", "yellow"),
    Happening.REMOVED: ("-", "yellow"),
    Happening.REFUSED: ("!", "yellow"),
    Happening.RENAMED: ("!", "yellow"),
    Happening.UNREACHABLE: ("!", "yellow"),
    Happening.MOVED: ("+", "green"),
}

_SAID = {
    Happening.JOINED: "joined",
    Happening.BACK: "is back",
    Happening.LOST: "is lost: it does not respond",
    Happening.LEFT: "left",
    Happening.REMOVED: "was removed from the cluster",
}


class News:
    """Prints on a console; does nothing if the terminal is gone."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str | Text, style: str = "", *, copied: bool = False) -> None:
        """Print a line, wrapped between words unless it is for copying (`copied`)."""
        with suppress(OSError):
            line = Text(visible(text), style=style) if isinstance(text, str) else text
            self.console.print(line, soft_wrap=copied or not self.console.is_terminal)

    def own(self, info: NodeInfo, cluster_id: str, insecure: bool) -> None:
        """Report this node's name, hardware and addresses."""
        hardware = info.hardware
        self.say(
            f"{info.name} is up: {hardware.chip}, reads {hardware.bandwidth_gbps:.0f} GB/s, offers "
            f"{bytes_text(info.offered_bytes)} of {bytes_text(hardware.memory_bytes)} to models"
        )
        self.say(f"listens at {', '.join(info.addresses)}", "bright_black")
        if insecure:
            self.say("INSECURE: no authentication, and all traffic is unencrypted", "bold red")
        else:
            self.say(f"cluster {cluster_id}", "bright_black")

    def how_to_join(self, token: JoinToken, address: str, host: str | None) -> None:
        """Print the command that joins other machines, or other nodes here if `address` is a loopback address.

        `host` is the given --host, if any.
        """
        self.say("")
        if is_loopback(address):
            cure = "connect it to a network" if host is None else "to change that: moe-cluster down, then up --host ::"
            self.say(f"Other machines cannot reach this node; {cure}", "yellow")
            self.say("For another node on this machine, type")
            join_command = f"MOE_CLUSTER_HOME=~/node-2 {JOIN} --port 0 --peer {address}"
        else:
            self.say("On each other machine, type")
            join_command = JOIN
        self.say("")
        self.say(f"  {join_command}", "bold", copied=True)
        self.say("")
        self.say("and paste this join token:")
        self.say("")
        self.say(f"  {token.text}", "bold", copied=True)
        self.say("")
        if not is_loopback(address):
            where, port = split(address)
            peer = f"{join(f'{where}%INTERFACE', port)}, with theirs, such as en0" if is_scoped(where) else address
            self.say(f"Where there is no multicast, add --peer {peer}", "bright_black")
        self.say(
            f"The token is valid for {duration_text(LIFETIME_S)}; moe-cluster token create makes another",
            "bright_black",
        )
        self.say("")

    def may_let_in(self) -> None:
        """Say how others join an existing cluster."""
        self.say("moe-cluster token create makes a join token for other machines", "bright_black")

    def change(self, change: Change, infos: Mapping[str, NodeInfo]) -> None:
        """Report a change of another node. `infos`: the present nodes by their shown names."""
        log.info("event=%s node=%s reason=%s", change.happening, change.name, change.reason)
        mark, style = _MARKS[change.happening]
        text = change.reason
        if change.happening is Happening.UNREACHABLE:
            text = f"{change.name} cannot be reached: {change.reason}"
        elif change.happening in _SAID:
            text = f"{change.name} {_SAID[change.happening]}{_described(infos.get(change.name))}; {_together(infos)}"
        self.say(Text.assemble((mark, style), " ", visible(text)))

    def serving(self, serving: ServingStatus | None) -> None:
        """Report a change of the cluster's model."""
        if serving is None:
            self.say(Text.assemble(("-", "yellow"), " the model was unloaded"))
            return
        model = visible(serving.model)
        if serving.state is ServingState.READY:
            self.say(Text.assemble(("+", "green"), f" {model} is ready: ", ("moe-cluster chat", "bold")))
        elif serving.state is ServingState.FAILED:
            self.say(Text.assemble(("-", "red"), f" {model} is not served: {visible(serving.failure)}"))

    def api(self, url: str) -> None:
        """Report that the HTTP APIs are served."""
        self.say(Text.assemble(("+", "green"), f" the APIs are at {url}: ", ("moe-cluster connect", "bold")))

    def error(self, text: str) -> None:
        """Print an error that does not end the node."""
        self.say(Text.assemble(("error: ", "red"), visible(text)))


def _described(info: NodeInfo | None) -> str:
    return "" if info is None else f": {info.hardware.chip}, offers {bytes_text(info.offered_bytes)}"


def _together(infos: Mapping[str, NodeInfo]) -> str:
    total = bytes_text(sum(info.offered_bytes for info in infos.values()))
    return f"{len(infos)} nodes offer {total}" if len(infos) > 1 else f"this node alone offers {total}"
