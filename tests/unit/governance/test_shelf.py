"""The catalogue: what is found by which words, and that nobody learns from it what others use."""

from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.data.catalogue import Catalogue
from orchestrator.data.manifest import Manifest
from orchestrator.errors import NotFoundError, RefusedError
from orchestrator.governance import shelf as shelf_module
from orchestrator.governance.cards import CatalogueEntry
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.service import Governance
from orchestrator.governance.shelf import folded
from orchestrator.governance.states import PlatformRole
from tests.unit.governance.places import START, create, draft

TABLES = {
    ("registry", "visits", 3): {
        "title": {"en": "Visits to doctors", "fr": "Visites chez le médecin"},
        "description": {"en": "One row for each person", "fr": "Une ligne par œuvre"},
        "columns": [
            {"name": "id", "type": "integer", "role": "identifier", "description": {"en": "Patient", "fr": "Patient"}},
            {
                "name": "hosp_days",
                "type": "integer",
                "role": "measure",
                "description": {"en": "Days", "fr": "Journées"},
            },
        ],
    },
    ("registry", "deaths", 4): {"title": "Deaths", "columns": [{"name": "when", "type": "date", "role": "date"}]},
    ("colon", "trial", 1): {
        "title": "Trial of chemotherapy",
        "description": "Straße",
        "columns": [{"name": "sex", "type": "integer", "role": "quasi-identifier"}],
    },
}


@pytest.fixture(name="listed")
def with_a_real_catalogue(here, folder):
    """Governance over manifests as they lie on disk."""
    for (dataset, table, version), described in TABLES.items():
        place = folder / "datasets" / dataset
        (place / str(version)).mkdir(parents=True)
        made = Manifest.model_validate(
            {"dataset": dataset, "table": table, "version": version, "rows": 70 + version, "description": described}
        )
        (place / str(version) / "manifest.json").write_text(made.model_dump_json())
    (folder / "datasets/registry/current.json").write_text(
        '{"published": [3, 4], "tables": {"visits": 3, "deaths": 4}}'
    )
    (folder / "datasets/colon/current.json").write_text('{"published": [1], "tables": {"trial": 1}}')
    governance = Governance(here.store, here.audit, here.clock, Catalogue(folder / "datasets"))
    governance.add_person(OPERATOR, "outsider", "Outsider")
    return governance


FOUND_BY = [
    ("", ["colon", "registry"]),
    ("  ", ["colon", "registry"]),
    ("chemotherapy", ["colon"]),
    ("CHEMO", ["colon"]),
    ("medecin", ["registry"]),
    ("MÉDECIN", ["registry"]),
    ("oeuvre", ["registry"]),
    ("strasse", ["colon"]),
    ("journees", ["registry"]),
    ("hosp_days", ["registry"]),
    ("deaths visits", ["registry"]),
    ("deaths chemotherapy", []),
    ("patient", ["registry"]),
    ("registry", ["registry"]),
    ("%", ["colon", "registry"]),
    ("_", ["registry"]),
    ("no such word", []),
]


def test_words_are_found_in_either_language_whatever_their_case_and_accents(listed):
    for search, found in FOUND_BY:
        assert [entry.dataset for entry in listed.catalogue("outsider", search)] == found, search


def test_an_entry_tells_of_columns_and_of_no_row(listed):
    entry = listed.catalogue_entry("outsider", "colon")
    assert (entry.title, entry.version, entry.rows, entry.used_in) == ({"en": "Trial of chemotherapy"}, 1, 71, ())
    assert [(one.name, one.role, one.type) for one in entry.tables[0].columns] == [
        ("sex", "quasi-identifier", "integer")
    ]
    assert CatalogueEntry.model_validate_json(entry.model_dump_json()) == entry


def test_a_dataset_of_several_tables_is_told_by_their_titles(listed):
    entry = listed.catalogue_entry("outsider", "registry")
    assert entry.title == "registry"
    assert entry.description == {"en": "Deaths; Visits to doctors", "fr": "Deaths; Visites chez le médecin"}
    assert (entry.version, entry.rows) == ("3, 4", 147)
    assert [table.table for table in entry.tables] == ["deaths", "visits"]


def test_a_dataset_that_is_not_there(listed):
    for name in ("no", "", "..", "../colon", "colon/1", "Colon"):
        with pytest.raises(NotFoundError):
            listed.catalogue_entry("outsider", name)


def test_no_dataset_is_in_an_empty_folder(here, folder):
    governance = Governance(here.store, here.audit, here.clock, Catalogue(folder / "none"))
    assert governance.catalogue(OPERATOR) == []


# -- whose projects use it --------------------------------------------------------------------------------------
def used_in(place, by):
    return place.governance.catalogue_entry(by, "visits").used_in


def test_a_person_reads_which_of_their_own_projects_use_it(sleep):
    assert used_in(sleep, "researcher") == used_in(sleep, "lead") == ("sleep",)
    assert [entry.used_in for entry in sleep.governance.catalogue("lead")] == [("sleep",)]


def test_nobody_reads_which_projects_of_others_use_it(sleep):
    sleep.governance.add_person(OPERATOR, "reviewer", "Reviewer")
    sleep.governance.add_role(OPERATOR, "reviewer", PlatformRole.REVIEWER)
    for by in ("outsider", "custodian", "admin", "auditor", "reviewer", OPERATOR):
        assert used_in(sleep, by) == ()


def test_a_membership_that_is_no_more_shows_nothing(sleep):
    sleep.governance.suspend_membership("lead", "sleep", "researcher")
    assert used_in(sleep, "researcher") == ()
    sleep.clock.now = START + timedelta(days=366)
    assert used_in(sleep, "lead") == ()


def test_a_draft_a_revoked_permit_and_a_closed_project_use_nothing(sleep):
    create(sleep.governance, "other")
    sleep.governance.activate_project("custodian", "other")
    sleep.governance.draft_permit("lead", "other", draft())
    assert used_in(sleep, "lead") == ("sleep",)
    sleep.governance.approve_permit("custodian", "other", 1)
    assert used_in(sleep, "lead") == ("other", "sleep")
    sleep.governance.revoke_permit("lead", "other", 1)
    assert used_in(sleep, "lead") == ("sleep",)
    sleep.governance.close_project("lead", "sleep")
    assert used_in(sleep, "lead") == ()


def test_negative_control_without_the_condition_on_the_person_an_outsider_learns_it(sleep, monkeypatch):
    real = shelf_module.select

    def of_anybody(*columns):
        # The statement as it would be if nobody had written whose memberships count.
        statement = real(*columns)
        where = type(statement).where

        class Loose:
            def join(self, target, on):
                nonlocal statement
                statement = statement.join(target, on)
                return self

            def where(self, whose, *others):
                assert "person_id" in str(whose)
                return where(statement, *others)

        return Loose()

    monkeypatch.setattr(shelf_module, "select", of_anybody)
    assert set(used_in(sleep, "outsider")) == {"sleep"}


def test_a_disabled_person_reads_nothing(sleep):
    sleep.governance.disable_person("admin", "researcher")
    with pytest.raises(RefusedError, match="not-disabled"):
        sleep.governance.catalogue("researcher")
    with pytest.raises(RefusedError, match="not-disabled"):
        sleep.governance.catalogue_entry("researcher", "visits")


def test_letters_are_folded():
    assert folded("Œuvre d'ÉTÉ à Ægir, Straße İ") == "oeuvre d'ete a aegir, strasse i"
