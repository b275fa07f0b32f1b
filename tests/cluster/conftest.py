"""The cluster for the tests: started once, and stopped, unless it ran before or ``BULLE_CLUSTER_KEEP`` is set.

Without root or an engine the tests fail; they are never skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from orchestrator.machine import images as machine_images
from tests.cluster.stage import Cluster, kube, write_filter


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A real Kubernetes with the product's images, loaded by content id."""
    if os.geteuid() != 0:
        pytest.fail("the cluster's tests need root")
    images = machine_images.build_images(["gateway", "sandbox", "node"], progress=print)
    kube("build")
    try:
        kube("up")
        kube("load", images["gateway"], images["sandbox"])
        write_filter(images["node"])
        yield Cluster(images)
    finally:
        if not os.environ.get("BULLE_CLUSTER_KEEP"):
            kube("down")
