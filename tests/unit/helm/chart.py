"""The chart, rendered as helm does it, for the deployments that somebody may want."""

from __future__ import annotations

import base64
import copy
import functools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.helm_binary import helm

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "bulle"
NAME = NAMESPACE = "bulle"
OLDEST, NEWEST = "1.20.0", "1.37.0"
Manifest = dict[str, Any]
Values = dict[str, Any]

IMAGES = {
    name: f"registry.example.org/bulle/{name.lower()}@sha256:{digit * 64}"
    for name, digit in zip(("controller", "node", "gateway", "sandbox", "demoIdp", "database"), "abcdef", strict=True)
}
#: the demonstration, as the README installs it
DEMO: Values = {
    "images": {name: image.rpartition("@")[2] for name, image in IMAGES.items()},
    "demo": {"enabled": True},
    "persistence": {"control": {"storageClass": "local", "size": "2Gi"}, "data": {"accessMode": "ReadWriteOnce"}},
}
#: a hospital's: ingress, its own provider and database, a token for the key, monitoring
HOSPITAL: Values = {
    "images": {
        **IMAGES,
        "pullSecrets": ["registry"],
        "ahead": [f"registry.example.org/bulle/sandbox@sha256:{'9' * 64}"],
    },
    "publicUrl": "https://bulle.example.org",
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "bulle-web", "annotations": {"a/b": "c"}},
    "settings": {
        "oidc": {"issuer": "https://login.example.org:8443/realms/hospital", "client_id": "bulle"},
        "notifications": {
            "smtp": {
                "host": "mail.example.org",
                "port": 465,
                "security": "tls",
                "sender": "bulle@example.org",
                "user": "bulle",
                "password_file": "/etc/bulle/notifications/smtp-password",
            }
        },
        "backup": {
            "endpoint": "https://store.example.org:9000",
            "credentials_file": "/etc/bulle/backup/credentials",
        },
        "governance": {"terms": {"version": "2", "files": {"en": "/etc/bulle/files/terms.md"}}},
        "kubernetes": {"runtime_class": "kata", "projects": {"quota": {"limits.memory": "64Gi"}}},
    },
    "files": "bulle-terms",
    "secrets": {"oidc": "bulle-oidc", "notifications": "bulle-mail", "backup": "bulle-store"},
    "custodian": {
        "kind": "pkcs11",
        "pkcs11": {"module": "/opt/hsm/lib/libhsm.so", "folder": "/opt/hsm", "pinSecret": "bulle-pin"},
    },
    "database": {"url": "postgresql://bulle@db.example.org:5433/bulle", "secretName": "bulle-database"},
    "metrics": {"enabled": True, "operator": True, "dashboard": True},
    "node": {"nodeSelector": {"tier": "research"}, "tolerations": [{"key": "research", "operator": "Exists"}]},
    "networkPolicy": {"egressTo": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]},
    "namespace": {"quota": {"pods": "40", "limits.memory": "64Gi"}, "limitRange": {"max": {"memory": "16Gi"}}},
}
#: everything that the chart can make itself, and everything that runs
INSIDE: Values = {
    **DEMO,
    "images": IMAGES,
    "database": {"internal": True},
    "metrics": {"enabled": True},
    "tools": {"enabled": True},
}
#: whatever can be there already is; the proxy serves TLS
EXISTING: Values = {
    "images": {**IMAGES, "prePull": False},
    "fullnameOverride": "workspaces",
    "deployment": "north",
    "publicUrl": "https://bulle.example.org:8443",
    "settings": {"oidc": {"issuer": "https://login.example.org", "client_id": "bulle"}},
    "secrets": {"shared": "s", "authorityTls": "a", "nodeTls": "n"},
    "custodian": {"existingSecret": "k"},
    "persistence": {"control": {"existingClaim": "c"}, "data": {"existingClaim": "d"}},
    "tls": {"secretName": "t"},
    "priorityClasses": {"create": False},
    "control": {"disruptionBudget": False},
    "networkPolicy": {"enabled": False},
}
DEPLOYMENTS: dict[str, Values] = {"demo": DEMO, "hospital": HOSPITAL, "inside": INSIDE, "existing": EXISTING}


class RefusedByHelmError(Exception):
    """Helm did not render it; the message is helm's."""


def run(*words: str, values: Values | None = None) -> str:
    """What helm says, with ``values`` on its standard input."""
    line = [str(helm()), *words, *(("-f", "-") if values is not None else ())]
    done = subprocess.run(line, input=json.dumps(values or {}), capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise RefusedByHelmError(done.stderr + done.stdout)
    return done.stdout


def template(values: Values, version: str = NEWEST) -> list[Manifest]:
    """Every object of a release with these values, on a cluster of this version."""
    words = ("template", NAME, str(CHART), "-n", NAMESPACE, "--kube-version", version)
    return [each for each in yaml.safe_load_all(run(*words, values=values)) if each]


@functools.cache
def _rendered(deployment: str, version: str) -> str:
    return json.dumps(template(DEPLOYMENTS[deployment], version))


def rendered(deployment: str, version: str = NEWEST) -> list[Manifest]:
    """The objects of one of DEPLOYMENTS; a copy of one's own."""
    found: list[Manifest] = json.loads(_rendered(deployment, version))
    return found


def of_kind(objects: list[Manifest], *kinds: str) -> Iterator[Manifest]:
    """Those of some kinds."""
    return (each for each in objects if each["kind"] in kinds)


def find(objects: list[Manifest], kind: str, name: str) -> Manifest:
    """One of them, by its whole name."""
    (found,) = [each for each in of_kind(objects, kind) if each["metadata"]["name"] == name]
    return found


def pods(objects: list[Manifest]) -> dict[str, Manifest]:
    """The pods that they make, by the name of what makes them."""
    made = {}
    for each in of_kind(objects, "DaemonSet", "Deployment", "StatefulSet", "Pod"):
        pod = each if each["kind"] == "Pod" else each["spec"]["template"]
        made[each["metadata"]["name"]] = copy.deepcopy(pod)
    return made


def decoded(secret: Manifest) -> dict[str, bytes]:
    """What is in a Secret."""
    return {key: base64.b64decode(value) for key, value in (secret.get("data") or {}).items()}


def settings_text(objects: list[Manifest]) -> str:
    """The settings file of a release."""
    (found,) = [each for each in of_kind(objects, "ConfigMap") if "bulle.yaml" in each.get("data", {})]
    return str(found["data"]["bulle.yaml"])
