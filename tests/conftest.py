"""What all tests share: the settings of a test process, and the local sandbox."""

import os
import signal
from collections.abc import Iterator

import pytest

from mucode_agent.models.sampling import forget_refusals
from mucode_agent.tools.local import LocalSandbox


def pytest_configure() -> None:
    """Two things that a test process inherits and that would change what the programs under test do."""
    # A shell gives its jobs in the background an ignored SIGINT.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Test processes that run side by side share the processors: the models here are too small for several threads.
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def sandbox(request: pytest.FixtureRequest) -> Iterator[LocalSandbox]:
    """A local sandbox that the tests of a file share. WORKERS and PRELOAD in the file are its options."""
    workers, preload = getattr(request.module, "WORKERS", 1), getattr(request.module, "PRELOAD", ())
    made = LocalSandbox(workers=workers, preload=preload)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def each_test_meets_new_servers() -> None:
    """What a model of one test refused says nothing of a model of the same name in another."""
    forget_refusals()
