"""What an agent works with, on one machine and on a node of a cluster alike: authority, keys, views, volumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.config import Settings
from orchestrator.governance.client import AuthorityClient
from orchestrator.governance.grants import issuer_of
from orchestrator.governance.keys import GRANT_PUBLIC, load_public_key
from orchestrator.keys import KeyRing, open_custodian
from orchestrator.node.catalogue_views import CatalogueViews
from orchestrator.node.folders import Folders
from orchestrator.node.grants import GrantDesk, chain_wanted
from orchestrator.node.journal import Journal
from orchestrator.node.ports import Keys, NodeAuthority, ViewBuilder
from orchestrator.node.views import Views
from orchestrator.node.volumes import Volumes
from orchestrator.process import now
from orchestrator.workspaces import seccomp
from orchestrator.workspaces.spec import images_of

__all__ = ["CommonParts", "authority_of", "common_parts", "grant_desk", "images_of", "volumes_of"]

_AUTHORITY_SECONDS = 3.0


@dataclass(kw_only=True)
class CommonParts:
    """Each can be replaced in a test."""

    authority: NodeAuthority
    keys: Keys
    builder: ViewBuilder
    #: the tightened system-call filter as JSON text
    seccomp: str


def _at_once(open_ring: Callable[[], Keys]) -> Keys:
    return open_ring()


def common_parts(settings: Settings, ring: Callable[[Callable[[], Keys]], Keys] = _at_once) -> CommonParts:
    """The authority, the custodian's key ring (``ring`` says when it is opened) and the data sets of a deployment."""
    layout = settings.layout
    keys = ring(lambda: KeyRing(layout.keyring, open_custodian(settings, layout)))
    return CommonParts(
        authority=authority_of(settings),
        keys=keys,
        builder=CatalogueViews(layout.datasets, keys, settings.workspace.pseudonyms),
        seccomp=seccomp.load(),
    )


def authority_of(settings: Settings) -> AuthorityClient:
    """The authority: on one machine behind a socket that root alone may open, on a cluster by TLS both ways."""
    cluster = settings.kubernetes
    if cluster is not None and cluster.authority is not None:
        return AuthorityClient.over_tls(cluster.authority, cluster.tls, timeout=_AUTHORITY_SECONDS)
    return AuthorityClient(settings.layout.socket("node"), timeout=_AUTHORITY_SECONDS)


def grant_desk(settings: Settings) -> GrantDesk:
    """The desk that checks grants by the deployment's public key.

    Raises:
        BulleError: the key is not there, or signatures are required where there can be none.
    """
    public_key = load_public_key(settings.layout.public / GRANT_PUBLIC)
    return GrantDesk(public_key, issuer_of(settings.deployment), now, chain_wanted(settings))


def volumes_of(settings: Settings, parts: CommonParts, folders: Folders, journal: Journal) -> Volumes:
    """The volumes of a deployment's sessions."""
    mounts = settings.layout.mounts
    return Volumes(
        allowed=mounts / "ws",
        limits=settings.workspace.limits,
        views=Views(mounts, parts.builder),
        folders=folders,
        builder=parts.builder,
        journal=journal,
    )
