"""The tokens that a cluster has given out: who may come in with them, until when, and what a restart remembers."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ClusterError, TrustError
from cluster.lock import held
from cluster.trust import Issued, StoredToken, TokenStore

UNENDING = '[{"secret_hash": "a", "expires_at_s": "soon", "max_uses": 1, "used_by": []}]'
A, B, C = "a" * 16, "b" * 16, "c" * 16


class Clock:
    now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "authority" / "tokens.json"


@pytest.fixture
def store(path: Path, clock: Clock) -> TokenStore:
    return TokenStore(path, "0" * 64, clock)


def reopened(path: Path, clock: Clock) -> TokenStore:
    return TokenStore(path, "0" * 64, clock)


def test_a_token_lets_in_as_many_nodes_as_it_says_and_a_restart_does_not_forget(
    store: TokenStore, path: Path, clock: Clock
) -> None:
    secret = store.create(max_uses=2).secret
    store.redeem(secret, A)
    store = reopened(path, clock)
    store.redeem(secret, B)
    with pytest.raises(TrustError, match="used up by 2 nodes"):
        reopened(path, clock).redeem(secret, C)


def test_a_node_whose_reply_was_lost_comes_in_again_with_a_token_that_is_used_up(store: TokenStore) -> None:
    secret = store.create(max_uses=1).secret
    store.redeem(secret, A)
    store.redeem(secret, A)
    assert store.tokens[0].used_by == (A,)


def test_a_token_ends_with_its_lifetime(store: TokenStore, clock: Clock) -> None:
    secret = store.create(lifetime_s=60).secret
    clock.now_s += 59.9
    store.redeem(secret, A)
    clock.now_s += 0.1
    with pytest.raises(TrustError, match="is expired"):
        store.redeem(secret, A)


def test_a_revoked_token_lets_nobody_in_not_even_again(store: TokenStore, path: Path, clock: Clock) -> None:
    secret, other = store.create().secret, store.create().secret
    store.redeem(secret, A)
    store.revoke(store.tokens[0].token_id)
    with pytest.raises(TrustError, match="is revoked"):
        store.redeem(secret, A)
    with pytest.raises(TrustError, match="is revoked"):
        reopened(path, clock).redeem(secret, A)
    store.redeem(other, A)


def test_revoking_an_unknown_token_names_those_that_are_known(store: TokenStore) -> None:
    with pytest.raises(TrustError, match="no join token 1234; join tokens are: none"):
        store.revoke("1234")
    store.create()
    with pytest.raises(TrustError, match=f"join tokens are: {store.tokens[0].token_id}"):
        store.revoke("1234")


def test_expired_tokens_are_forgotten_when_another_is_made(store: TokenStore, clock: Clock) -> None:
    for _ in range(3):
        store.create(lifetime_s=60)
    clock.now_s += 61
    store.create()
    assert len(store.tokens) == 1


def test_the_file_is_private_and_holds_no_secret(store: TokenStore, path: Path) -> None:
    token = store.create()
    store.redeem(token.secret, A)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert token.secret not in path.read_text()
    assert token.secret not in repr(store.tokens)
    assert {file.name for file in path.parent.iterdir()} == {"tokens.json", "tokens.lock"}


def test_a_write_that_fails_changes_nothing(
    store: TokenStore, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = store.create(max_uses=1).secret

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(ClusterError, match=r"tokens\.json cannot be written: No space"):
            store.redeem(secret, A)
    assert store.tokens[0].used_by == ()
    assert reopened(path, clock).tokens == store.tokens
    assert {file.name for file in path.parent.iterdir()} == {"tokens.json", "tokens.lock"}


DAMAGED = ["", "{", "7", "[7]", "[{}]", '[{"used_by": []}]', '[{"used_by": 1}]', "[" * 100_000, UNENDING]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_refused_with_the_cure(path: Path, clock: Clock, content: str) -> None:
    path.parent.mkdir()
    path.touch(mode=0o600)
    path.write_text(content)
    with pytest.raises(TrustError, match=r"tokens\.json cannot be read .* delete it and make new tokens"):
        reopened(path, clock).redeem("secret", A)


def test_a_file_that_others_may_read_is_refused_with_the_cure(store: TokenStore, path: Path, clock: Clock) -> None:
    store.create()
    path.chmod(0o640)
    with pytest.raises(TrustError, match=rf"mode 0640\); close it with: chmod 600 {path}"):
        reopened(path, clock).redeem("secret", A)


def test_a_store_that_another_process_holds_is_an_error_that_names_the_lock(
    store: TokenStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.trust.token_store.LOCK_S", 0.0)
    store.create()
    with held(path.with_suffix(".lock"), 0), pytest.raises(ClusterError, match=r"tokens\.lock"):
        store.create()
    assert len(store.tokens) == 1


def test_an_expired_token_that_nobody_used_is_forgotten_when_the_next_is_made(store: TokenStore, clock: Clock) -> None:
    used = store.create(lifetime_s=60).secret
    store.create(lifetime_s=60)
    store.redeem(used, A)
    clock.now_s += 61
    store.create()
    assert [token.used_by for token in store.tokens] == [(A,), ()]


TOKENS = st.builds(
    StoredToken,
    secret_hash=st.sampled_from(["1" * 64, "2" * 64, "3" * 64]),
    expires_at_s=st.just(2e9),
    max_uses=st.just(9),
    used_by=st.lists(st.sampled_from("abcd"), unique=True).map(tuple),
    revoked=st.booleans(),
    guest=st.booleans(),
)
ISSUED = st.builds(
    Issued,
    tokens=st.lists(TOKENS, unique_by=lambda token: token.secret_hash).map(tuple),
    keepers=st.lists(st.sampled_from("abcd"), unique=True).map(tuple),
)


def known(issued: Issued) -> object:
    tokens = {t.secret_hash: (frozenset(t.used_by), t.revoked, t.guest) for t in issued.tokens}
    return tokens, frozenset(issued.keepers)


@given(ISSUED, ISSUED, ISSUED)
def test_keepers_that_tell_each_other_in_any_order_know_the_same(a: Issued, b: Issued, c: Issued) -> None:
    assert known(a.merged(b)) == known(b.merged(a))
    assert known(a.merged(b).merged(c)) == known(a.merged(b.merged(c)))
    assert a.merged(b).merged(b) == a.merged(b)
    assert {t.secret_hash for t in a.tokens if t.revoked} <= {t.secret_hash for t in b.merged(a).tokens if t.revoked}


def test_a_file_of_a_version_without_keepers_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.touch(mode=0o600)
    path.write_text('[{"secret_hash": "12", "expires_at_s": 1, "max_uses": 2, "used_by": ["a"], "revoked": false}]')
    assert TokenStore(path, "").issued == Issued((StoredToken("12", 1, 2, ("a",)),))


def test_merged_tokens_stay_in_the_order_in_which_they_were_made(tmp_path: Path, clock: Clock) -> None:
    here, there = (TokenStore(tmp_path / name / "tokens.json", "", clock) for name in ("a", "b"))
    ids: list[str] = []
    for n, store in enumerate([here, there, here, there]):
        clock.now_s += 1
        store.create(lifetime_s=1e6 / (n + 1))
        ids += {token.token_id for token in store.tokens} - set(ids)
        here.merge(there.issued)
        there.merge(here.issued)
    assert [token.token_id for token in here.tokens] == [token.token_id for token in there.tokens] == ids
