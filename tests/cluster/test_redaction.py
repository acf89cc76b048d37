"""Redaction: no planted name, address or secret is left, and equal things stay recognizably equal."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.redaction import SECRET, Redaction

PATHS = {"/Users/jane.doe": "~", "/Users/jane.doe/Library/moe-cluster": "$MOE_CLUSTER_HOME"}
KEY = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----"
SECRETS = (
    KEY,
    KEY.replace("\n", "\\n"),  # as in JSON
    "MC1be6acb11d01d524e071604826042a35e::Zm9vYmFyYmF6cXV4Zm9vYmFy",
    "hf_AbCdEfGhIjKlMnOp",
    "sk-abcdefghijklmnop",
    "moe-" + "aB3_-" * 8 + "xyz",
)


def redaction() -> Redaction:
    return Redaction(PATHS, "jane.doe", ("Janes-MacBook.local", "janes-macbook", "studio"), addresses=True)


text = st.text(st.characters(codec="utf-8"), max_size=20)
planted = st.one_of(
    st.sampled_from(["/Users/jane.doe/x", "jane.doe", "Janes-MacBook.local", "studio", "jane@example.com"]),
    st.sampled_from(SECRETS),
    st.ip_addresses().filter(lambda ip: not (ip.is_loopback or ip.is_unspecified or ip.is_multicast)).map(str),
    st.sampled_from(["a4:83:e7:01:02:03"]),
)


@given(st.lists(st.tuples(text, planted), max_size=5), st.sampled_from([" ", "\n", '"', "(", "/", "=", ","]))
def test_what_was_planted_is_gone(parts: list[tuple[str, str]], between: str) -> None:
    written = between.join(f"{noise}{between}{secret}{between}" for noise, secret in parts)
    redacted = redaction().text(written)
    for _, secret in parts:
        assert secret.lower() not in redacted.lower()


def test_equal_things_have_equal_names() -> None:
    said = redaction().text(
        "10.0.0.7:7420 studio 10.0.0.8 STUDIO [fe80::1%en0]:7420 10.0.0.7 8.8.8.8 at 12:34:56 on 127.0.0.1 0.32.4"
    )
    assert said == (
        "private-ip-1:7420 host-1 private-ip-2 host-1 [link-local-ip-1%en0]:7420 private-ip-1 public-ip-1 at 12:34:56 "
        "on 127.0.0.1 0.32.4"
    )


def test_paths_become_what_they_stand_for() -> None:
    said = redaction().text("/Users/jane.doe/Library/moe-cluster/logs, /Users/jane.doe/m and /Users/jane.does")
    assert said == "$MOE_CLUSTER_HOME/logs, ~/m and /Users/jane.does"


@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_gone_without_the_rest(secret: str) -> None:
    assert redaction().text(f"it said {secret!s} and ended") == f"it said {SECRET} and ended"


def test_addresses_as_grpc_writes_them_are_found() -> None:
    said = redaction().text("ipv4:192.168.1.9:50, ipv6:%5B2001:db8::9%5D:50 and [2001:db8::9]:7420")
    assert "192.168" not in said
    assert "db8" not in said


def test_members_of_a_cluster_keep_their_addresses() -> None:
    said = Redaction({"/home/jane": "~"}, "jane").text("jane at 10.0.0.7 has /home/jane/x, and MC1be6acb11d01d524e0716")
    assert said == f"USER at 10.0.0.7 has ~/x, and {SECRET}"


def test_a_machine_without_anything_to_hide_is_unchanged() -> None:
    said = f"root at {ipaddress.ip_address('127.0.0.1')} in /"
    assert Redaction({"/": "~"}, "root", ("",), addresses=True).text(said) == said
