"""The cluster for the tests: started once, and stopped, unless it ran before or ``BULLE_CLUSTER_KEEP`` is set.

Without root or an engine the tests fail; they are never skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.cluster.live import PROJECT, Desktop, Live, installed, stop_all
from tests.cluster.stage import Cluster, running_cluster
from tests.integration.people import chromium, log_in, open_workspace, person


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A real Kubernetes with the product's images, loaded by content id."""
    if os.geteuid() != 0:
        pytest.fail("the cluster's tests need root")
    with running_cluster(print) as found:
        yield found


@pytest.fixture(scope="session")
def live(cluster: Cluster) -> Iterator[Live]:
    """The chart installed and filled with the demo's content, once for all tests."""
    with installed(cluster) as found:
        yield found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def desktop(live: Live, browser: Browser) -> Iterator[Desktop]:
    """The researcher's desktop; nothing of it stays."""
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, live.url, "researcher", live.password("researcher"))
        open_workspace(page, PROJECT)
        yield Desktop(live, page)
        page.goto(f"{live.url}/services/portal/")
        stop_all(live, page)
