"""Join tokens as people type and paste them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import TrustError
from cluster.trust import JoinToken

HASHES = st.text("0123456789abcdef", min_size=64, max_size=64)
SECRETS = st.text("ABCXYZabcxyz0189-_", min_size=32, max_size=32)


@given(HASHES, SECRETS)
def test_a_token_survives_being_typed(key_hash: str, secret: str) -> None:
    token = JoinToken(key_hash, secret)
    assert JoinToken.parse(f"  {token.text}\n") == token


@given(HASHES, SECRETS, st.data())
def test_a_token_with_a_character_lost_is_refused_and_not_repeated(
    key_hash: str, secret: str, data: st.DataObject
) -> None:
    text = JoinToken(key_hash, secret).text
    place = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(TrustError, match=r"not a whole join token \(100 characters\)") as caught:
        JoinToken.parse(text[:place] + text[place + 1 :])
    assert secret[:-1] not in str(caught.value)
    assert secret[1:] not in str(caught.value)


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(TrustError, match="not a whole join token"):
        JoinToken.parse(text)


def test_a_token_of_a_later_version_is_refused() -> None:
    with pytest.raises(TrustError):
        JoinToken.parse(JoinToken("0" * 64, "s" * 32).text.replace("MC1", "MC2"))


def test_neither_str_nor_repr_shows_the_secret() -> None:
    token = JoinToken("0" * 64, "s" * 32)
    assert "ssss" not in f"{token} {token!r}"
