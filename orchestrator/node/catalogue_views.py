"""Binds the data room to the node agent: a grant's view, from the catalogue and the key ring of this
machine."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from orchestrator.config import PseudonymForm
from orchestrator.data.catalogue import Catalogue
from orchestrator.data.view import build_view, required_keys
from orchestrator.errors import CustodyError
from orchestrator.node.ports import Keys, Progress
from orchestrator.terms import Grant


def pseudonym_key(project_id: str) -> str:
    """Key id of a project's level-two pseudonyms."""
    return f"project/{project_id}/pseudonyms"


class CatalogueViews:
    """A :class:`~orchestrator.node.ports.ViewBuilder` over encrypted datasets."""

    def __init__(self, datasets: Path, keys: Keys, form: PseudonymForm) -> None:
        self._datasets = datasets
        self._keys = keys
        self._form = form

    def required_keys(self, grant: Grant) -> list[str]:
        """See :meth:`ViewBuilder.required_keys`."""
        columns = required_keys(Catalogue(self._datasets), grant.permit)
        return [*columns, pseudonym_key(grant.project_id)]

    def build(self, grant: Grant, released: Collection[str], target: Path, progress: Progress) -> None:
        """See :meth:`ViewBuilder.build`."""
        catalogue = Catalogue(self._datasets)
        project_key = pseudonym_key(grant.project_id)

        def checked(key_id: str) -> str:
            # A bug in the builder must not open a column outside the permit, nor one whose release is not in the
            # audit log: its key is not given out. Shown by tests/unit/node/test_catalogue_views.py.
            if key_id not in released:
                raise CustodyError(f"the key '{key_id}' is not needed by this permit and was not released")
            return key_id

        build_view(
            catalogue=catalogue,
            terms=grant.permit,
            project_key=self._keys.get_or_create(checked(project_key)),
            column_key=lambda key_id: self._keys.get(checked(key_id)),
            target=target,
            form=self._form,
            progress=progress,
        )
