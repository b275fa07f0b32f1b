"""Binds the data room to the node agent: a grant's view, from the catalogue and the key ring of this
machine."""

from __future__ import annotations

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

    def build(self, grant: Grant, target: Path, progress: Progress) -> None:
        """See :meth:`ViewBuilder.build`."""
        catalogue = Catalogue(self._datasets)
        allowed = frozenset(required_keys(catalogue, grant.permit))

        def column_key(key_id: str) -> bytes:
            # A bug in the builder must not open a column outside the permit: its key is not given out.
            if key_id not in allowed:
                raise CustodyError(f"the key '{key_id}' is not needed by this permit and was not released")
            return self._keys.get(key_id)

        build_view(
            catalogue=catalogue,
            terms=grant.permit,
            project_key=self._keys.get_or_create(pseudonym_key(grant.project_id)),
            column_key=column_key,
            target=target,
            form=self._form,
            progress=progress,
        )
