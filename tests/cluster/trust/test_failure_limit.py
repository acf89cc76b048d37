"""How long who failed to join has to wait, and that nobody waits for others."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.trust.failure_limit import MAX_ADDRESSES, PER_ADDRESS, WINDOW_S, FailureLimit


def test_an_address_waits_after_five_failures_and_others_do_not() -> None:
    limit = FailureLimit()
    for second in range(PER_ADDRESS):
        assert limit.wait_s("a", second) == 0
        limit.failed("a", second)
    assert limit.wait_s("a", 10) == 50
    assert limit.wait_s("b", 10) == 0
    assert limit.wait_s("a", 60) == 0


def test_nobody_waits_because_a_thousand_others_failed_and_no_more_of_them_are_remembered() -> None:
    limit = FailureLimit()
    for n in range(2 * MAX_ADDRESSES):
        for _ in range(PER_ADDRESS):
            limit.failed(f"address {n}", 0)
    assert limit.wait_s("another", 1) == 0
    waiting = [n for n in range(2 * MAX_ADDRESSES) if limit.wait_s(f"address {n}", 1)]
    assert waiting == list(range(MAX_ADDRESSES, 2 * MAX_ADDRESSES))


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 20)), max_size=300))
def test_in_no_minute_an_address_fails_more_often_than_the_limit(tries: list[tuple[float, int]]) -> None:
    limit = FailureLimit()
    failed: list[tuple[float, str]] = []
    now_s = 0.0
    for pause_s, n in tries:
        now_s += pause_s
        address = str(n)
        wait_s = limit.wait_s(address, now_s)
        recent = [other for at_s, other in failed if at_s > now_s - WINDOW_S]
        assert (wait_s > 0) == (recent.count(address) >= PER_ADDRESS)
        if not wait_s:
            limit.failed(address, now_s)
            failed.append((now_s, address))
