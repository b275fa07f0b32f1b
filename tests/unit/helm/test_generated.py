"""Schema and table are what values.yaml and the product's settings say today."""

from __future__ import annotations

import json
import tomllib

import pytest
import yaml

from helm.generate import BEGIN, END, OURS, PAGE, SCHEMA, VALUES, schema, table, values, with_table, written
from tests.unit.helm.chart import CHART, ROOT

TEXT = VALUES.read_text(encoding="utf-8")


def test_the_schema_is_current() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == written(schema(TEXT)), "python helm/generate.py"


def test_the_table_of_the_page_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page, TEXT), "python helm/generate.py"
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == table(TEXT)
    assert with_table(page, TEXT.replace("size: 10Gi", "size: 11Gi")) != page


def test_a_value_without_a_word_about_it_is_seen() -> None:
    with pytest.raises(ValueError, match=r"kubelet\.other"):
        list(values(TEXT.replace("  folder: /var/lib/kubelet", "  folder: /var/lib/kubelet\n  other: 1")))


def test_nothing_below_the_root_is_open_but_what_must_be() -> None:
    """Objects that take any key: labels and the like, and what Kubernetes itself checks."""
    found = json.loads(SCHEMA.read_text(encoding="utf-8"))
    open_ones = set()

    def walk(node: dict[str, object], path: str) -> None:
        if node.get("type") == "object" and node.get("additionalProperties") is not False:
            open_ones.add(path)
        for key, below in (node.get("properties") or {}).items():  # type: ignore[attr-defined]
            walk(below, f"{path}.{key}".lstrip("."))

    walk(found, "")
    for name, section in found["$defs"].items():
        walk(section, f"${name}")
    assert open_ones == {
        "global",
        "ingress.annotations",
        *(f"{part}.{key}" for part in ("control", "node") for key in ("annotations", "nodeSelector")),
        *(f"{part}.resources.{key}" for part in ("control", "node") for key in ("requests", "limits")),
        "control.affinity",
        "namespace.quota",
        *(f"namespace.limitRange.{key}" for key in ("max", "min", "default", "defaultRequest", "maxLimitRequestRatio")),
        "$Oidc.group_roles",
        "$TermsOfUse.files",
        "$Kubernetes.node_selector",
        "$Tier.devices",
        "$Tier.node_selector",
        *(f"$ProjectNamespaces.{key}" for key in ("quota", "limit_range", "labels", "annotations")),
    }


def test_what_the_chart_sets_itself_cannot_be_set() -> None:
    found = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert not OURS["Settings"] & found["properties"]["settings"]["properties"].keys()
    for name in ("Oidc", "Kubernetes"):
        assert not OURS[name] & found["$defs"][name]["properties"].keys()


def test_the_chart_s_copies_of_the_monitoring_s_files_are_current() -> None:
    """A chart can show no file from outside its folder."""
    for name in ("alerts.yaml", "grafana-dashboard.json"):
        assert (CHART / "files" / name).read_bytes() == (ROOT / "docs" / "monitoring" / name).read_bytes()


def test_the_chart_has_the_product_s_version() -> None:
    product = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (product, product)
