"""What all tests share: hypothesis without a clock, the order of modules, and what follows a failure."""

from collections.abc import Generator

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


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = report.failed
    return report


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Make a module's fixtures anew after a failure: a cluster may be in any state, also for the next try."""
    module = item.getparent(pytest.Module)
    if item.stash[FAILED] and module is not None and module.parent is not None:
        item.session._setupstate.teardown_exact(module.parent)
    yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print why tests failed that were tried again: pytest shows the last failure alone."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"tried again: {report.nodeid}", sep="_")
        terminalreporter.line(report.longreprtext)
