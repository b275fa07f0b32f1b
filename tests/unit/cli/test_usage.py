"""``bulle usage`` and ``bulle project certificate`` on a real state folder."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from orchestrator.cli.context import open_governance
from orchestrator.config import Settings
from orchestrator.governance.authority import authority_of
from orchestrator.governance.cards import ClosingDone, FolderSize, Machine, NodeReport, SessionUsage
from orchestrator.governance.costs import CSV_HEADER
from orchestrator.governance.keys import GRANT_KEY, load_private_key
from orchestrator.governance.service import Governance
from tests.unit.conftest import CommandLine

MACHINE = Machine(cpus=1, load=0, memory_total_gb=1, memory_free_gb=1, storage_total_gb=1, storage_free_gb=1)


@pytest.fixture
def deployment_settings() -> dict[str, Any]:
    return {"governance": {"prices": {"currency": "EUR", "hour": "0.25"}, "quotas": {"hours": 100}}}


@pytest.fixture
def governance(bulle: CommandLine) -> Governance:
    settings = bulle.settings
    made = open_governance(settings)
    for name, shows in (("custodian", "=HYPERLINK(1)"), ("lead", "Lead")):
        made.add_person("operator", name, shows)
    bulle("person", "role", "add", "custodian", "custodian")
    now = made.now()
    made.create_project(
        "custodian", "sleep", title="=1+1", purpose="To see.", lead="lead", starts=now, ends=now + timedelta(days=9)
    )
    made.record_usage(
        NodeReport(
            machine=MACHINE,
            sessions=(
                SessionUsage(
                    session="a" * 32,
                    month="2026-10",
                    project_id=made.project("sleep").id,
                    person="lead",
                    began=datetime(2026, 10, 5, tzinfo=UTC),
                    seen=datetime(2026, 10, 5, 2, tzinfo=UTC),
                    seconds=5400,
                ),
            ),
            folders=(FolderSize(project_id=made.project("sleep").id, bytes_used=1e9),),
        )
    )
    return made


def test_a_month_is_told_as_csv_that_no_spreadsheet_takes_for_formulas(
    bulle: CommandLine, governance: Governance
) -> None:
    code, out, _ = bulle("usage", "--month", "2026-10", "--csv")
    assert code == 0 and out.endswith("\r\n") and "\r\r" not in out
    header, row = csv.reader(io.StringIO(out))
    assert tuple(header) == CSV_HEADER
    told = dict(zip(header, row, strict=True))
    assert (told["project_title"], told["hours"], told["cost"], told["currency"]) == (
        "'=1+1",
        "1.500000",
        "0.38",
        "EUR",
    )


def test_a_month_is_told_as_a_table_with_its_total_and_quotas(bulle: CommandLine, governance: Governance) -> None:
    code, out, _ = bulle("usage", "--month", "2026-10", "--project", "sleep")
    assert code == 0 and "1.50" in out and "0.38" in out and "hours: 1.50 of 100" in out


def test_nothing_used_is_no_error_and_a_wrong_month_is_one(bulle: CommandLine, governance: Governance) -> None:
    assert bulle("usage", "--month", "2020-01")[0] == 0
    code, _, err = bulle("usage", "--month", "october")
    assert code == 1 and "not a month" in err


def test_who_reads_as_a_part_of_the_platform_is_refused(bulle: CommandLine, governance: Governance) -> None:
    code, _, err = bulle("usage", "--as", "node-agent")
    assert code == 1 and "part of the platform" in err


def deleted(governance: Governance, settings: Settings) -> str:
    governance.activate_project("custodian", "sleep")
    governance.close_project("custodian", "sleep")
    governance.retain_project("custodian", "sleep", governance.now())
    authority = authority_of(settings, governance, load_private_key(settings.layout.authority / GRANT_KEY))
    project_id = governance.project("sleep").id
    done = ClosingDone(done="destroyed", keys=(f"project/{project_id}/folder",))
    certificate = authority.closed(project_id, done).certificate
    assert certificate is not None
    return certificate


def test_a_certificate_is_printed_and_verified(bulle: CommandLine, governance: Governance, tmp_path: Path) -> None:
    code, _, err = bulle("project", "certificate", "sleep")
    assert code == 1 and "no certificate" in err
    kept = deleted(governance, bulle.settings)
    code, out, _ = bulle("project", "certificate", "sleep")
    assert code == 0 and "✓ signed by the authority of trial" in out
    told = yaml.safe_load(out.rpartition("✓")[0])
    assert told["project"] == "sleep" and "backup" in told["note"]
    assert bulle("project", "certificate", "sleep", "--jws")[1].strip() == kept
    (tmp_path / "kept.jws").write_text(kept + "\n")
    assert bulle("project", "certificate", "sleep", "--file", str(tmp_path / "kept.jws"))[0] == 0


@pytest.mark.parametrize("change", ["cut", "other-project", "binary"])
def test_a_certificate_that_was_changed_does_not_verify(
    bulle: CommandLine, governance: Governance, tmp_path: Path, change: str
) -> None:
    kept = deleted(governance, bulle.settings)
    (tmp_path / "kept.jws").write_bytes(
        {"cut": kept[:-8].encode(), "other-project": kept.encode(), "binary": b"\xff\xfe"}[change]
    )
    project = "other" if change == "other-project" else "sleep"
    code, _, err = bulle("project", "certificate", project, "--file", str(tmp_path / "kept.jws"))
    assert code == 1 and "certificate" in err


def test_the_operators_health_knows_where_the_keys_are(governance: Governance) -> None:
    assert governance.health("operator").embedded_custodian
    assert SimpleNamespace(**governance.health("operator").model_dump()).audit_records > 5
