"""RPC words: what gRPC and the TLS libraries say about a failed call, in words for a person.

The one place that knows their texts. Patterns are tried in order: gRPC wraps the cause in the names of its layers.
"""

from __future__ import annotations

import re
from datetime import datetime

TOO_LARGE = "larger than max"
"""In what gRPC says of a message that it did not read."""

NOBODY_LISTENS = "nothing listens there (connection refused)"

_SAID = (
    (
        "certificate has expired|CERTIFICATE_EXPIRED",
        "its certificate has expired by the clock of this machine ({now}): check the date of both machines; "
        "if it has ended, moe-cluster leave on that one, and moe-cluster up --join - with a new token",
    ),
    (
        "certificate is not yet valid",
        "its certificate is not valid yet by the clock of this machine ({now}): check the date of both machines",
    ),
    (
        "unable to get local issuer|self.signed certificate|unknown ca|UNKNOWN_CA|certificate signature failure",
        "a node of another cluster, or another program, is there: its certificate is not of this cluster",
    ),
    ("Hostname Verification", "another node is at this address now"),
    (
        "WRONG_VERSION_NUMBER|HTTP_REQUEST|UNKNOWN_PROTOCOL|INVALID_PROTOCOL|PACKET_LENGTH|BAD_RECORD_TYPE",
        "a program that does not speak TLS is there, or a node with --insecure",
    ),
    (
        "ALERT|BAD_CERTIFICATE|Handshake read failed .Socket closed|failed to connect.*Socket closed|UNEXPECTED_EOF",
        "it ended the connection during the handshake: it refuses this node's certificate, or has too many connections",
    ),
    (
        "Endpoint closing|[Hh]andshake.*(?:time|DEADLINE)|handshaker shutdown",
        "something accepts the connection and then says nothing: a node that hangs, or another program",
    ),
    ("Connection refused", NOBODY_LISTENS),
    ("Connection reset|recvmsg|Broken pipe", "the connection was reset"),
    (
        "No route to host|Network is unreachable|Host is down|Network is down",
        "there is no way to it from here (no route to host): is it on this network? On a Mac, System Settings > "
        "Privacy & Security > Local Network must allow this program",
    ),
    ("No such file or directory", "its socket is gone: the node has ended, or is just starting"),
    ("Permission denied|Operation not permitted", "the system does not let this program connect"),
    ("Too many open files", "this machine has too many open files and connections; ulimit -n 4096 allows more"),
    ("name not found|lookup failed|Name or service|nodename nor servname", "its name is not known here"),
    ("ping timeout|keepalive watchdog|[Kk]eepalive", "it does not answer any more, though its connection is open"),
    ("DEADLINE_EXCEEDED|Deadline Exceeded|timed out|[Tt]imeout", "no answer in time"),
    ("Cancelling all calls|GOAWAY|Server shutdown|^CANCELLED$", "it is shutting down"),
    ("Concurrent RPC limit", "it has too many calls at once; try again in a moment"),
    (TOO_LARGE, "a message is larger than allowed"),
    (
        "Method not found|UNIMPLEMENTED",
        "its moe-cluster does not have this call: use one version everywhere",
    ),
    ("Unexpected <class|Exception (?:iterating|calling)", "its program failed; moe-cluster logs shows its log"),
    ("Socket closed|End of TCP stream|Stream removed|RST_STREAM", "the connection broke"),
)

_PATTERNS = tuple((re.compile(pattern, re.DOTALL), words) for pattern, words in _SAID)

_WRAPPED = re.compile(r".*(?:last error|: )", re.DOTALL)


def in_words(text: str) -> str:
    """Return what a library said about a failed connection or call in words for a person; as it is if unknown."""
    for pattern, words in _PATTERNS:
        if pattern.search(text):
            return words.format(now=f"{datetime.now().astimezone():%Y-%m-%d %H:%M}")
    return _WRAPPED.sub("", text) if text.startswith("failed to connect") else text
