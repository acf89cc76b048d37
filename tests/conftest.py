"""What all tests share: hypothesis without a clock, and the order of modules."""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "moe-cluster",
    deadline=None,  # this and `too_slow` fail on a busy machine; pytest's timeout catches what hangs
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,  # examples are new in every run: one that failed elsewhere can be repeated here
)
settings.load_profile("moe-cluster")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest modules first, so that no process is left with one of them when the others have ended."""
    slow, oracle = ({item.path for item in items if item.get_closest_marker(name)} for name in ("slow", "oracle"))
    items.sort(key=lambda item: (item.path not in slow, item.path not in oracle))
