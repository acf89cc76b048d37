"""Whom a keeper of the authority would leave without one."""

from pathlib import Path

import pytest

from cluster.home import Home
from cluster.node.leaving import stranded
from cluster.trust import Authority, Issued, NodeKey, RemovedNodes, TokenStore

A, B = "a" * 16, "b" * 16


@pytest.mark.parametrize(
    ("keepers", "removed", "n_stranded"), [((), (), 2), ((A,), (), 0), ((), (A,), 1), ((A,), (A,), 1), ((), (A, B), 0)]
)
def test_others_are_stranded_only_where_no_other_node_keeps_the_authority(
    tmp_path: Path, keepers: tuple[str, ...], removed: tuple[str, ...], n_stranded: int
) -> None:
    home = Home(tmp_path)
    authority = Authority.create(home.authority)
    key = NodeKey.open(home.identity)
    key.adopt(authority.certify(key.private_key.public_key()), authority.certificate)
    tokens = TokenStore(home.tokens, authority.key_hash)
    secret = tokens.create().secret
    for node_id in (A, B):
        tokens.redeem(secret, node_id)
    tokens.merge(Issued(keepers=(key.node_id, *keepers)))
    RemovedNodes(home.removed, authority.certificate).add(authority.remove(node_id, "x") for node_id in removed)
    assert stranded(home) == n_stranded
