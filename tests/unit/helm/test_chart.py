"""What the chart makes of a release: objects, settings, secrets, who sees what, and what it refuses."""

from __future__ import annotations

import base64
import copy
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from orchestrator.cli.demo import PEOPLE
from orchestrator.cluster.namespaces import CONTROL_POD
from orchestrator.cluster.prepare import folders, layout_of
from orchestrator.config import Settings, Uid, load_settings
from orchestrator.governance.mutual_tls import NODE_AGENT, client_context, server_context
from orchestrator.keys.file import KEY_BYTES, KEY_FILE
from orchestrator.machine.state import shared_secrets
from orchestrator.node.registration import registry_socket
from orchestrator.workspaces.pod import DRIVER
from tests.unit.helm.chart import (
    CHART,
    DEMO,
    DEPLOYMENTS,
    HOSPITAL,
    NAME,
    NAMESPACE,
    NEWEST,
    OLDEST,
    Manifest,
    RefusedByHelmError,
    Values,
    decoded,
    find,
    of_kind,
    pods,
    rendered,
    run,
    settings_text,
    template,
)
from tests.unit.workspaces.test_pod import HOLES, broken, change, containers, named

EVERY = sorted(DEPLOYMENTS)
ACCOUNT_PLACE = "/var/run/secrets/kubernetes.io/serviceaccount"
#: what a cluster of 1.20 knows, and a newer one still; monitoring's come with their operator
OLD = {
    *("v1", "apps/v1", "networking.k8s.io/v1", "rbac.authorization.k8s.io/v1", "storage.k8s.io/v1"),
    *("scheduling.k8s.io/v1", "policy/v1beta1", "monitoring.coreos.com/v1"),
}


def of_release(deployment: str, tmp_path: Path) -> Settings:
    path = tmp_path / "bulle.yaml"
    path.write_text(settings_text(rendered(deployment)), encoding="utf-8")
    return load_settings(path)


# -- helm ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("deployment", EVERY)
def test_helm_finds_nothing_wrong(deployment: str) -> None:
    said = run("lint", "--strict", str(CHART), values=DEPLOYMENTS[deployment])
    assert "0 chart(s) failed" in said and "[WARNING]" not in said and "[ERROR]" not in said


@pytest.mark.parametrize("deployment", EVERY)
def test_it_renders_for_the_oldest_and_the_newest_cluster(deployment: str) -> None:
    old, new = rendered(deployment, OLDEST), rendered(deployment, NEWEST)
    assert [(each["kind"], each["metadata"]["name"]) for each in old] == [
        (each["kind"], each["metadata"]["name"]) for each in new
    ]
    assert {each["apiVersion"] for each in old} <= OLD
    assert {each["apiVersion"] for each in new} <= OLD - {"policy/v1beta1"} | {"policy/v1"}


def test_an_older_cluster_is_refused() -> None:
    with pytest.raises(RefusedByHelmError, match=r"kubeVersion: >=1\.20"):
        template(DEMO, "1.19.4")


@pytest.mark.parametrize("deployment", EVERY)
def test_every_object_says_what_it_belongs_to(deployment: str) -> None:
    settings = settings_text(rendered(deployment))
    name = "workspaces" if deployment == "existing" else NAME
    assert f"name: {name}\n" in settings
    for each in rendered(deployment):
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "bulle" and labels["app.kubernetes.io/instance"] == NAME
        assert each["metadata"]["name"].startswith(name) or each["metadata"]["name"] == DRIVER
        cluster_wide = {"ClusterRole", "ClusterRoleBinding", "CSIDriver", "PriorityClass"}
        assert each["metadata"].get("namespace") == (None if each["kind"] in cluster_wide else NAMESPACE)


def changed(values: Values, path: str, value: Any) -> Values:
    """``values`` with one other value; None takes it away."""
    other: Any = copy.deepcopy(values)
    at = other
    *way, last = path.split(".")
    for step in way:
        at = at.setdefault(step, {})
    if value is None:
        del at[last]
    else:
        at[last] = value
    return other  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("values", "path", "value", "said"),
    [
        (DEMO, "images.controler", "x", "controler"),
        (DEMO, "images.node", "registry.example.org/bulle/node:latest", "images/node"),
        (DEMO, "images.node", None, "name the image by its content"),
        (DEMO, "images.ahead", ["registry.example.org/bulle/sandbox:next"], "images/ahead"),
        (HOSPITAL, "images.prePull", False, "images.ahead: only with images.prePull"),
        (DEMO, "namespace.quota", {"limits.cpu": "4"}, "namespace.quota: not of limits.cpu"),
        (DEMO, "namespace.limitRange", {"maximum": {}}, "maximum"),
        (DEMO, "settings", {"workspace": {"idle_minuets": 5}}, "idle_minuets"),
        (DEMO, "settings", {"workspace": {"idle_minutes": "never"}}, "idle_minutes"),
        (DEMO, "settings", {"listen": "0.0.0.0:80"}, "listen"),
        (DEMO, "settings", {"kubernetes": {"hub": ["192.0.2.1:80"]}}, "settings"),
        (DEMO, "persistence.data.accessMode", "ReadOnlyMany", "accessMode"),
        (DEMO, "state", "bulle", "state"),
        (DEMO, "state", "/var/lib/../etc", "state"),
        (DEMO, "priorityClasses.control", 2_000_000_000, "priorityClasses/control"),
        (HOSPITAL, "publicUrl", "https://[2001:db8::1]", "ingress.enabled: publicUrl"),
        (HOSPITAL, "publicUrl", None, "publicUrl: the address"),
        (HOSPITAL, "publicUrl", "http://bulle.example.org", "publicUrl"),
        (HOSPITAL, "settings.oidc", None, "settings.oidc: the OpenID provider"),
        (HOSPITAL, "secrets.oidc", None, "secrets.oidc: the Secret"),
        (HOSPITAL, "ingress.tlsSecret", None, "ingress.tlsSecret: without a certificate"),
        (HOSPITAL, "custodian.pkcs11.pinSecret", None, "custodian.pkcs11.pinSecret: a Secret"),
        (HOSPITAL, "database.secretName", None, "database.secretName: a Secret"),
        (HOSPITAL, "database.url", "postgresql://bulle:secret@db.example.org/bulle", "database/url"),
        (HOSPITAL, "custodian.kind", "vault", "custodian/kind"),
        (DEMO, "secrets.nodeTls", "mine", "both or none"),
        (DEMO, "publicUrl", "https://bulle.example.org", "demo.enabled: the demonstration is on loopback"),
        (DEMO, "tls.secretName", "web", "demo.enabled: the demonstration is on loopback"),
        (DEMO, "metrics.operator", True, "metrics.operator: there is nothing to ask"),
        (DEMO, "fullnameOverride", "9bulle", "fullnameOverride"),
        (HOSPITAL, "database.internal", True, "database.internal and database.url"),
        (HOSPITAL, "custodian.pkcs11.module", None, "custodian.pkcs11.module: the library"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_installed(
    values: Values, path: str, value: Any, said: str
) -> None:
    with pytest.raises(RefusedByHelmError, match=re.escape(said)):
        template(changed(values, path, value))


# -- settings ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("deployment", EVERY)
def test_the_product_accepts_the_settings(deployment: str, tmp_path: Path) -> None:
    settings = of_release(deployment, tmp_path)
    assert settings.kubernetes is not None and settings.kubernetes.namespace == NAMESPACE
    assert settings.deployment == {"existing": "north"}.get(deployment, NAME)
    assert settings.kubernetes.images is not None
    objects = rendered(deployment)
    for place, part in zip(
        (settings.kubernetes.hub[0], settings.kubernetes.authority or ""), ("hub", "authority"), strict=True
    ):
        service = find(objects, "Service", f"{settings.kubernetes.name}-{part}")
        host, port = place.removeprefix("https://").split(":")
        assert host.startswith(f"{service['metadata']['name']}.{NAMESPACE}.svc")
        assert int(port) == service["spec"]["ports"][0]["port"]


def test_what_a_hospital_set_is_in_the_settings(tmp_path: Path) -> None:
    settings = of_release("hospital", tmp_path)
    assert settings.public_url == "https://bulle.example.org" and settings.oidc.client_id == "bulle"
    assert settings.custodian.kind == "pkcs11" and settings.database_url.startswith("postgresql+psycopg://bulle@db")
    assert settings.kubernetes is not None and settings.kubernetes.runtime_class == "kata"
    assert settings.kubernetes.image_pull_secrets == ("registry",)
    assert settings.kubernetes.priority_class == f"{NAME}-workspace"
    control = pods(rendered("hospital"))[f"{NAME}-control"]
    shown = {each["mountPath"] for container in containers(control) for each in container["volumeMounts"]}
    files = [*settings.notifications.secret_files, *settings.governance.terms.files.values()]
    files += [path for path in (settings.database_ca_file, settings.database_password_file) if path is not None]
    assert len(files) == 4 and {str(each.parent) for each in files} <= shown
    assert settings.custodian.kind == "pkcs11" and settings.backup is not None
    for part in ("node", "tools"):
        container = named(pods(rendered("hospital"))[f"{NAME}-{part}"], part)
        places = {each["mountPath"] for each in container["volumeMounts"]}
        assert {str(settings.custodian.pin_file.parent), "/opt/hsm"} <= places
    assert str(settings.backup.credentials_file.parent) in places


def test_a_change_of_the_settings_starts_who_reads_them_anew() -> None:
    def stamps(values: Values) -> set[str]:
        made = pods(template(values))
        return {
            pod["metadata"]["annotations"]["bulle/settings"]
            for name, pod in made.items()
            if not name.endswith(("-images", "-test"))
        }

    assert len(stamps(DEMO)) == 1
    assert stamps(DEMO) != stamps({**DEMO, "settings": {"reconcile_seconds": 1}})


# -- secrets -------------------------------------------------------------------------------------------------
def test_secrets_have_the_form_of_those_of_one_machine(tmp_path: Path) -> None:
    objects = rendered("inside")
    shared = decoded(find(objects, "Secret", f"{NAME}-secrets"))
    accounts = json.loads(shared.pop("accounts.json"))
    assert accounts.keys() == {person.name for person in PEOPLE}
    assert all(len(each["password"]) == 12 for each in accounts.values())
    assert len(shared.pop("client-secret")) == 48
    expected = {each.name for each in shared_secrets(of_release("inside", tmp_path).layout)} | {"scrape-token"}
    assert shared.keys() == expected
    assert all(re.fullmatch(rb"[0-9a-f]{64}", value) for value in shared.values())
    assert len(set(shared.values())) == len(shared)
    key = decoded(find(objects, "Secret", f"{NAME}-custodian"))
    assert key.keys() == {KEY_FILE} and len(key[KEY_FILE]) == KEY_BYTES
    again = decoded(find(template(DEMO), "Secret", f"{NAME}-secrets"))
    assert not set(again.values()) & set(shared.values()), "made anew, not from the chart"


def test_no_secret_is_made_where_there_is_one() -> None:
    assert list(of_kind(rendered("existing"), "Secret", "PersistentVolumeClaim")) == []
    assert "client-secret" not in decoded(find(rendered("hospital"), "Secret", f"{NAME}-secrets"))


def words_of(objects: list[Manifest]) -> set[str]:
    """Every secret value that a release makes, as text and in base64."""
    found = set()
    for secret in of_kind(objects, "Secret"):
        for key, value in decoded(secret).items():
            if key.endswith(".crt"):
                continue
            whole = (
                [value] if key != "accounts.json" else [row["password"].encode() for row in json.loads(value).values()]
            )
            found |= {base64.b64encode(each).decode() for each in whole}
            found |= {each.decode("latin-1") for each in whole if each.isascii()}
    return found


def leaks(objects: list[Manifest]) -> list[str]:
    """Where a secret value stands outside a Secret, or goes into an environment."""
    secret = words_of(objects)
    found = []
    for each in objects:
        if each["kind"] != "Secret" and any(word in json.dumps(each) for word in secret):
            found.append(each["metadata"]["name"])
    for name, pod in pods(objects).items():
        for container in containers(pod):
            if "envFrom" in container or any("secretKeyRef" in str(env) for env in container.get("env", [])):
                found.append(f"{name}: {container['name']}")
    return found


@pytest.mark.parametrize("deployment", EVERY)
def test_no_secret_is_in_anything_but_a_secret(deployment: str) -> None:
    assert leaks(rendered(deployment)) == []


def test_negative_control_a_secret_elsewhere_is_seen() -> None:
    objects = rendered("inside")
    assert len(words_of(objects)) > 15
    token = decoded(find(objects, "Secret", f"{NAME}-secrets"))["proxy-token"].decode()
    find(objects, "ConfigMap", f"{NAME}-settings")["data"]["token"] = token
    control = find(objects, "StatefulSet", f"{NAME}-control")["spec"]["template"]["spec"]["containers"]
    control[0]["args"] = [f"--token={token}"]
    tools = find(objects, "Deployment", f"{NAME}-tools")["spec"]["template"]["spec"]["containers"][0]
    tools["env"].append({"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}})
    assert leaks(objects) == [f"{NAME}-settings", f"{NAME}-control", f"{NAME}-tools: tools"]


@pytest.mark.parametrize("deployment", EVERY)
def test_what_is_made_once_outlives_the_release(deployment: str) -> None:
    for each in of_kind(rendered(deployment), "Secret", "PersistentVolumeClaim"):
        assert each["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_an_upgrade_looks_for_every_secret_that_it_makes() -> None:
    """What a cluster answers is shown by tests/cluster/test_live.py; here, that no Secret is made without asking."""
    text = (CHART / "templates" / "secrets.yaml").read_text(encoding="utf-8")
    asked = set(re.findall(r'lookup "v1" "Secret" \.Release\.Namespace \(printf "%s-([a-z-]+)"', text))
    assert {f"{NAME}-{each}" for each in asked} == {
        each["metadata"]["name"] for each in of_kind(rendered("inside"), "Secret")
    }


def test_authority_and_node_agent_prove_themselves_with_the_certificates(tmp_path: Path) -> None:
    objects = rendered("demo")
    names = {}
    for part in ("authority", "node"):
        folder = tmp_path / part
        folder.mkdir()
        for key, value in decoded(find(objects, "Secret", f"{NAME}-{part}-tls")).items():
            (folder / key).write_bytes(value)
            (folder / key).chmod(0o440)
        certificate = x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())
        assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days >= 3650
        names[part] = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names["node"].get_values_for_type(x509.DNSName) == [NODE_AGENT] and len(list(names["node"])) == 1
    host = f"{NAME}-authority.{NAMESPACE}.svc"
    assert shake(server_context(tmp_path / "authority"), client_context(tmp_path / "node"), host)
    with pytest.raises(ssl.SSLError):
        shake(server_context(tmp_path / "authority"), client_context(tmp_path / "authority"), host)


def shake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> bool:
    """Both ends of a handshake, in memory."""
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(here, there, server_hostname=host), server.wrap_bio(there, here, server_side=True)]
    done: set[int] = set()
    for _ in range(10):
        for number, end in enumerate(ends):
            try:
                end.do_handshake()
                done.add(number)
            except ssl.SSLWantReadError:
                continue
    return done == {0, 1}


# -- Pod Security ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("deployment", EVERY)
def test_every_pod_but_the_node_agent_s_is_restricted(deployment: str) -> None:
    made = pods(rendered(deployment))
    agents = [name for name in made if name.endswith("-node")]
    assert len(agents) == 1
    for name, pod in made.items():
        if name in agents:
            assert {control for _, control in broken(pod)} >= {"Privileged Containers", "HostPath Volumes"}
        else:
            # the folder of a token's library lies on the node of those who open keys
            library = {
                (each["name"], what) for each in containers(pod) for what in ("HostPath Volumes", "Volume Types")
            }
            expected = library if name.endswith("-tools") and deployment == "hospital" else set()
            assert broken(pod) == expected, name


@pytest.mark.parametrize(("control", "path", "value"), HOLES)
def test_negative_control_a_pod_of_the_chart_that_is_not_restricted_is_seen(
    control: str, path: str, value: Any
) -> None:
    pod = pods(rendered("inside"))[f"{NAME}-control"]
    name = pod["spec"]["containers"][0]["name"]
    assert (name, control) not in broken(pod)
    change(path, value)(pod)
    if path.startswith("spec.securityContext."):
        # what a container says itself holds, whatever its pod says
        named(pod, name)["securityContext"].pop(path.rpartition(".")[2], None)
    assert (name, control) in broken(pod)


def unconfined(pod: Manifest) -> set[tuple[str, str]]:
    """What *restricted* does not ask for, and every container of the release keeps to."""
    spec = pod["spec"]
    found = set()
    for each in containers(pod):
        context = each["securityContext"]
        held = {
            "read-only root": context.get("readOnlyRootFilesystem") is True,
            "named by its content": re.search("sha256:[0-9a-f]{64}$", each["image"]) is not None,
            "limits": {"memory"} <= each["resources"]["limits"].keys()
            and {"cpu", "memory"} <= each["resources"]["requests"].keys(),
            "no token but its own": spec["automountServiceAccountToken"] is False,
            "no addresses in the environment": spec["enableServiceLinks"] is False,
            "no namespace of the node's": not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
            "no port of the node's": not any("hostPort" in port for port in each.get("ports", [])),
            "an account of its own": spec.get("serviceAccountName", "default") != "default",
        }
        found |= {(each["name"], what) for what, holds in held.items() if not holds}
    return found


@pytest.mark.parametrize("deployment", EVERY)
def test_every_container_is_confined(deployment: str) -> None:
    for name, pod in pods(rendered(deployment)).items():
        assert unconfined(pod) == set(), name


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ("spec.containers[0].securityContext.readOnlyRootFilesystem", False, "read-only root"),
        ("spec.containers[0].image", "bulle:latest", "named by its content"),
        ("spec.containers[0].resources", {"limits": {}, "requests": {}}, "limits"),
        ("spec.automountServiceAccountToken", True, "no token but its own"),
        ("spec.enableServiceLinks", True, "no addresses in the environment"),
        ("spec.hostNetwork", True, "no namespace of the node's"),
        ("spec.containers[0].ports", [{"containerPort": 1, "hostPort": 1}], "no port of the node's"),
        ("spec.serviceAccountName", "default", "an account of its own"),
    ],
)
def test_negative_control_a_container_that_is_not_confined_is_seen(path: str, value: Any, what: str) -> None:
    pod = pods(rendered("inside"))[f"{NAME}-node"]
    change(path, value)(pod)
    assert ("node", what) in unconfined(pod)


# -- who is who, and sees what -------------------------------------------------------------------------------
USERS = {
    "prepare": Uid.AUTHORITY,
    "wait-for-folders": Uid.AUTHORITY,
    "authority": Uid.AUTHORITY,
    "hub": Uid.HUB,
    "proxy": Uid.PROXY,
    "portal": Uid.PORTAL,
    "door": Uid.DOOR,
    "metrics": Uid.METRICS,
    "demo-idp": Uid.DEMO_IDP,
    "database": 1018,
    "namespaces": Uid.NAMESPACES,
    "tools": Uid.AUTHORITY,
    "node": 0,
}


def test_each_part_has_a_user_of_its_own() -> None:
    found = {
        each["name"]: each["securityContext"]["runAsUser"]
        for name, pod in pods(rendered("inside")).items()
        if not name.endswith(("-images", "-test"))
        for each in containers(pod)
    }
    assert found == USERS


def all_mounts(deployment: str) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Of each container: its name, the mount, and the volume behind it."""
    for pod in pods(rendered(deployment)).values():
        volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
        used = set()
        for each in containers(pod):
            for mount in each["volumeMounts"]:
                used.add(mount["name"])
                yield each["name"], mount, volumes[mount["name"]]
        assert used == volumes.keys(), "no volume that nobody mounts"


@pytest.mark.parametrize("deployment", EVERY)
def test_the_cluster_s_tokens_are_in_three_containers(deployment: str) -> None:
    holders = {name for name, mount, volume in all_mounts(deployment) if "serviceAccountToken" in str(volume)}
    assert holders == {"door", "namespaces", "node"}
    assert {
        mount["mountPath"] for _, mount, volume in all_mounts(deployment) if "serviceAccountToken" in str(volume)
    } == {ACCOUNT_PLACE}


def test_who_sees_which_folder(tmp_path: Path) -> None:
    state = of_release("inside", tmp_path).layout.state
    seen: dict[str, set[str]] = {}
    for name, mount, _ in all_mounts("inside"):
        path = Path(mount["mountPath"])
        if path.is_relative_to(state) and "secrets" not in path.parts:
            seen.setdefault(name, set()).add(f"{path.relative_to(state)}{':ro' if mount.get('readOnly') else ''}")
    assert seen == {
        "authority": {
            *("authority", "audit", "database/socket", "datasets:ro", "public:ro"),
            *("sockets/hub", "sockets/portal", "sockets/cluster", "sockets/metrics-authority"),
        },
        "hub": {"hub", "public:ro", "sockets/hub:ro", "sockets/door:ro"},
        "portal": {"public:ro", "sockets/portal", "sockets/metrics-portal"},
        "door": {"public:ro", "sockets/door", "sockets/cluster"},
        "metrics": {"sockets/metrics-authority", "sockets/metrics-portal"},
        "database": {"database"},
        "node": {"mounts", "datasets:ro", "folders", "keyring", "public:ro", "custodian:ro"},
        "tools": {
            *(
                "authority",
                "audit",
                "hub",
                "database/socket",
                "datasets",
                "folders",
                "keyring",
                "public",
                "custodian:ro",
            ),
        },
    }


def test_every_folder_of_a_volume_is_one_that_is_prepared() -> None:
    layout = layout_of(Path("/volumes"))
    prepared = {str(each.path.relative_to("/volumes")) for each in folders(layout)}
    wanted = {
        f"{volume}/{mount['subPath']}"
        for deployment in EVERY
        for _, mount, _ in all_mounts(deployment)
        for volume in [mount["name"]]
        if volume in ("control", "data", "sockets") and "subPath" in mount
    }
    assert len(wanted) > 12 and wanted <= prepared


def test_each_part_s_secrets_are_where_it_looks_and_nobody_else_s(tmp_path: Path) -> None:
    settings = of_release("inside", tmp_path)
    layout = settings.layout
    found: dict[str, set[str]] = {}
    for name, mount, volume in all_mounts("inside"):
        source = volume.get("secret") or volume.get("projected") or {}
        sources = [each.get("secret", {}) for each in source.get("sources", [])] if "sources" in source else [source]
        for item in (item for each in sources for item in each.get("items", [])):
            found.setdefault(name, set()).add(f"{mount['mountPath']}/{item['path']}")
            assert source["defaultMode"] == 0o440 and mount["readOnly"] is True
    secrets = layout.secrets
    owners = {Uid.HUB: "hub", Uid.PROXY: "proxy", Uid.PORTAL: "portal", Uid.METRICS: "metrics"}
    expected: dict[str, set[str]] = {}
    for each in shared_secrets(layout):
        for path, uid in each.files:
            expected.setdefault(owners[uid], set()).add(str(path))
    expected["hub"].add(str(secrets / "hub" / "client-secret"))
    expected["metrics"].add(str(secrets / "metrics" / "scrape-token"))
    expected["demo-idp"] = {str(secrets / "demo-idp" / name) for name in ("client-secret", "accounts.json")}
    expected["tools"] = {str(layout.custodian / KEY_FILE)}
    expected["node"] = {*expected["tools"], str(secrets / "metrics" / "scrape-token")}
    assert found == expected
    assert settings.metrics is not None
    # who is asked, and so must know the token
    assert all(str(settings.metrics.token_file) in found[part] for part in ("metrics", "node"))


@pytest.mark.parametrize("deployment", EVERY)
def test_the_custodian_s_key_is_with_node_agents_and_sleeping_tools_only(deployment: str) -> None:
    holders = {name for name, mount, _ in all_mounts(deployment) if mount["name"] == "custodian"}
    assert holders == {"node", "tools"}
    (tools,) = [
        each for each in of_kind(rendered(deployment), "Deployment") if each["metadata"]["name"].endswith("-tools")
    ]
    assert tools["spec"]["replicas"] == (1 if deployment == "inside" else 0)


def test_the_node_agent_is_what_kubelet_expects(tmp_path: Path) -> None:
    settings = of_release("inside", tmp_path)
    assert settings.kubernetes is not None
    agent = named(pods(rendered("inside"))[f"{NAME}-node"], "node")
    shared = {each["mountPath"] for each in agent["volumeMounts"] if each.get("mountPropagation") == "Bidirectional"}
    assert shared == {str(settings.kubernetes.kubelet), str(settings.layout.mounts)}
    assert agent["livenessProbe"]["exec"]["command"][-1] == str(registry_socket(settings.kubernetes.kubelet))
    driver = find(rendered("inside"), "CSIDriver", DRIVER)["spec"]
    assert driver["podInfoOnMount"] is True and driver["tokenRequests"] == [{"audience": "bulle-node"}]


PROBED_BY_NOTHING = {
    "prepare": "ends",
    "wait-for-folders": "ends",
    "test": "ends",
    "tools": "sleeps; whoever needs it is in it",
    "gateway": "sleeps; holds an image",
    "sandbox": "sleeps; holds an image",
    "namespaces": "listens on nothing; it looks again after every fault, and compares everything every 30 s",
}


def test_every_container_that_serves_is_probed() -> None:
    for pod in pods(rendered("inside")).values():
        for each in containers(pod):
            has = {"startupProbe", "livenessProbe"} <= each.keys()
            assert has != (each["name"] in PROBED_BY_NOTHING), each["name"]


# -- network -------------------------------------------------------------------------------------------------
def opened(deployment: str, part: str) -> tuple[set[int], set[int]]:
    """Ports that a part's policy opens: in, out."""
    spec = find(rendered(deployment), "NetworkPolicy", f"{NAME}-{part}")["spec"]
    assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
    return tuple(  # type: ignore[return-value]
        {port["port"] for rule in spec.get(way, []) for port in rule.get("ports", [])} for way in ("ingress", "egress")
    )


def test_what_is_not_opened_is_shut() -> None:
    shut = find(rendered("demo"), "NetworkPolicy", f"{NAME}-nothing")["spec"]
    assert shut["policyTypes"] == ["Ingress", "Egress"] and not shut.keys() & {"ingress", "egress"}
    for pod in pods(rendered("inside")).values():
        assert shut["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    api = {53, 443, 6443}
    assert opened("demo", "control") == ({8000, 8081, 8443}, api | {8888})
    assert opened("hospital", "control") == ({8000, 8081, 8443, 9464}, api | {8888, 8443, 465, 5433})
    assert opened("demo", "namespaces") == (set(), api)
    assert opened("demo", "node") == (set(), api | {8443})
    assert opened("hospital", "node") == ({9464}, api | {8443})
    assert opened("demo", "tools") == (set(), set())
    assert opened("hospital", "tools") == (set(), {53, 5433, 9000})
    assert list(of_kind(rendered("existing"), "NetworkPolicy")) == []


def test_projects_namespaces_find_the_control_plane_s_pod() -> None:
    """Their own policies, which the namespace controller makes, select it by these labels."""
    labels = pods(rendered("demo"))[f"{NAME}-control"]["metadata"]["labels"]
    assert CONTROL_POD.items() <= labels.items()
    others = [pod for name, pod in pods(rendered("demo")).items() if name != f"{NAME}-control"]
    assert not any(CONTROL_POD.items() <= pod["metadata"]["labels"].items() for pod in others)


def test_an_ingress_is_never_in_clear() -> None:
    spec = find(rendered("hospital"), "Ingress", NAME)["spec"]
    assert spec["tls"] == [{"hosts": ["bulle.example.org"], "secretName": "bulle-web"}]
    (rule,) = spec["rules"]
    assert rule["host"] == "bulle.example.org"
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == f"{NAME}-proxy"


# -- what else ---------------------------------------------------------------------------------------------
def test_monitoring_asks_with_the_token_and_has_the_rules() -> None:
    objects = rendered("hospital")
    asked = set()
    for monitor in of_kind(objects, "PodMonitor"):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        credentials = endpoint["authorization"]["credentials"]
        assert credentials["key"] in decoded(find(objects, "Secret", credentials["name"]))
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        for name, pod in pods(objects).items():
            ports = {port["name"]: port["containerPort"] for each in containers(pod) for port in each.get("ports", [])}
            if wanted <= pod["metadata"]["labels"].items():
                assert ports[endpoint["port"]] == 9464
                asked.add(name)
    # the control plane's parts by one of them, node agents each
    assert asked == {f"{NAME}-control", f"{NAME}-node"}
    rules = find(objects, "PrometheusRule", NAME)["spec"]["groups"][0]["rules"]
    assert len(rules) > 8 and any("{{ $labels.part }}" in rule["annotations"]["summary"] for rule in rules)
    assert json.loads(find(objects, "ConfigMap", f"{NAME}-dashboard")["data"]["bulle.json"])["uid"] == "bulle"


def test_images_of_workspaces_are_on_every_node_of_theirs() -> None:
    pod = pods(rendered("hospital"))[f"{NAME}-images"]
    images = DEPLOYMENTS["hospital"]["images"]
    assert [each["image"] for each in containers(pod)] == [images["gateway"], images["sandbox"], *images["ahead"]]
    assert pod["spec"]["nodeSelector"] == {"tier": "research"} and pod["spec"]["tolerations"]
    assert f"{NAME}-images" not in pods(rendered("existing"))


def test_limits_of_the_namespace_and_the_disruption_budget_are_the_administrator_s() -> None:
    hospital = rendered("hospital")
    assert find(hospital, "ResourceQuota", NAME)["spec"] == {"hard": HOSPITAL["namespace"]["quota"]}
    assert find(hospital, "LimitRange", NAME)["spec"] == {"limits": [{"type": "Container", "max": {"memory": "16Gi"}}]}
    assert find(hospital, "PodDisruptionBudget", f"{NAME}-control")["spec"]["minAvailable"] == 1
    assert not list(of_kind(rendered("demo"), "ResourceQuota", "LimitRange"))
    assert not list(of_kind(rendered("existing"), "PodDisruptionBudget"))


def test_the_release_s_own_test_can_do_nothing() -> None:
    pod = pods(rendered("inside"))[f"{NAME}-test"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert broken(pod) == set() and [each["name"] for each in pod["spec"]["volumes"]] == ["tmp"]
    compile(named(pod, "test")["command"][2], "release_test.py", "exec")


def test_the_notes_say_what_matters() -> None:
    def notes(values: Values) -> str:
        return run("install", NAME, str(CHART), "-n", NAMESPACE, "--dry-run=client", "--hide-secret", values=values)

    said = notes(DEMO)
    assert "DEMONSTRATION" in said and "WARNING: the custodian's key" in said and "port-forward" in said
    said = notes(HOSPITAL)
    assert "DEMONSTRATION" not in said and "WARNING" not in said and "https://bulle.example.org" in said
