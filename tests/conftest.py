"""How long a run of the tests is, and what it prints while it goes."""

import faulthandler
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.guard import LLAMA_S, PLAIN_S, THOROUGH
from tests.support.turns import turn

ON_DRIVER = "tests/vulkan/"

# No deadline: an example may take as long as the machine needs.
settings.register_profile("short", max_examples=30, deadline=None)
settings.register_profile("thorough", max_examples=300, deadline=None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--thorough",
        action="store_true",
        help="every split of every shape, 1,000 placements, 200 changes of memory",
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("thorough" if config.getoption("--thorough") else "short")
    config.pluginmanager.register(_AtOnce(config), "failures-at-once")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each test gets the limit of its kind, unless it has one of its own."""
    times = THOROUGH if config.getoption("--thorough") else 1
    for item in items:
        if item.get_closest_marker("timeout") is None:
            limit = LLAMA_S if item.get_closest_marker("llama") else PLAIN_S
            item.add_marker(pytest.mark.timeout(limit * times))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Outside of all limits: waiting for one's turn is not the test's time."""
    workers = getattr(item.config, "workerinput", None)
    if workers is None:  # one process runs all tests
        return (yield)
    folder = Path(tempfile.gettempdir(), f"moe-proxy-tests-{workers['testrunuid']}")
    with turn(folder, alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.config.getoption("--thorough"):
        # The hard limit of pyproject.toml, which cannot be another one for this.
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Nothing else is run on a GPU's driver, so it is told at the end that this was not."""
    yield
    skipped = [x for x in terminalreporter.getreports("skipped") if x.nodeid.startswith(ON_DRIVER)]
    if skipped:
        why = str(skipped[0].longrepr[2] if isinstance(skipped[0].longrepr, tuple) else "")
        terminalreporter.write_line(f"Tests on a Vulkan driver were skipped: {len(skipped)}. {why}")


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether to do all of something that is long, or the part of it that finds most mistakes."""
    return bool(request.config.getoption("--thorough"))


class _AtOnce:
    """Prints a failure when it happens: a run that is broken off from outside shows no summary."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and reporter is not None:
            reporter.ensure_newline()
            reporter.write_sep("_", f"{report.nodeid} ({report.when}, {report.duration:.0f} s)")
            reporter.write_line(report.longreprtext)
