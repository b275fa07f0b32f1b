"""Who asks for a volume is the one pod that the grant allows; a real HTTPS server stands in the cluster's place."""

from __future__ import annotations

import copy
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from orchestrator.cluster_api import HttpsApi
from orchestrator.errors import GrantError, UnavailableError
from orchestrator.node import pod_identity
from orchestrator.node.csi import TOKENS, Asked
from orchestrator.node.pod_identity import PodIdentity, PodName
from orchestrator.workspaces.pod import workspace_pod
from tests.unit.workspaces.test_pod import CLUSTER, IMAGES
from tests.unit.workspaces.test_spec import a_grant

UID = "0f0f0f0f-0000-4000-8000-00000000000a"
NAMESPACE, NAME = "bulle-project-" + "1" * 32, "ws-" + "0" * 32
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:bulle-workspace"


def authority(folder: Path) -> None:
    """A certificate of its own for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir()
    (folder / "ca.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    (folder / "token").write_text("agent-1\n")


class Cluster:
    """The two questions, answered as a cluster does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens: dict[str, dict[str, Any]] = {"pod-token": reviewed()}
        self.pods: dict[str, Any] = {f"{NAMESPACE}/{NAME}": a_pod()}
        self.own = ["agent-1"]
        self.status = 0
        authority(folder)
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *words: Any) -> None: ...

            def answer(self, status: int, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(cluster.status or status)
                self.send_header("Content-Length", str(len(body)))
                if cluster.status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(body)

            def allowed(self) -> bool:
                return self.headers.get("Authorization", "") in [f"Bearer {each}" for each in cluster.own]

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["spec"]
                if not self.allowed() or self.path != "/apis/authentication.k8s.io/v1/tokenreviews":
                    return self.answer(401, {})
                found = copy.deepcopy(cluster.tokens.get(asked["token"]))
                if found is None or not set(found["audiences"]) & set(asked["audiences"]):
                    return self.answer(201, {"status": {"error": "invalid", "user": {}}})
                return self.answer(201, {"status": found})

            def do_GET(self) -> None:
                if not self.allowed():
                    return self.answer(401, {})
                _, _, _, _, namespace, _, name = self.path.split("/")
                found = cluster.pods.get(f"{namespace}/{name}")
                return self.answer(200 if found else 404, found or {})

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "ca.crt", folder / "key.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self.server.server_port}"


def reviewed(**changes: Any) -> dict[str, Any]:
    extra = {"authentication.kubernetes.io/pod-name": [NAME], "authentication.kubernetes.io/pod-uid": [UID]}
    user = {"username": ACCOUNT, "extra": extra}
    return {"authenticated": True, "audiences": ["bulle-node"], "user": user, **changes}


def a_pod() -> dict[str, Any]:
    made = copy.deepcopy(workspace_pod(a_grant(), CLUSTER, IMAGES, IMAGES.gateway))
    made["metadata"]["uid"] = UID
    made["spec"]["nodeName"] = "node-7"
    return made


def asked(**changes: str) -> Asked:
    context = {
        "csi.storage.k8s.io/pod.namespace": NAMESPACE,
        "csi.storage.k8s.io/pod.name": NAME,
        "csi.storage.k8s.io/pod.uid": UID,
        "csi.storage.k8s.io/ephemeral": "true",
    }
    token = changes.pop("token", "pod-token")
    for name, value in changes.items():
        context[f"csi.storage.k8s.io/{'' if name == 'ephemeral' else 'pod.'}{name}"] = value
    secrets = {"grant": "g", TOKENS: json.dumps({"bulle-node": {"token": token}})}
    return Asked("csi-1", "/t", False, context, secrets, "x")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path / "account")
    yield found
    found.server.shutdown()
    found.server.server_close()


def identity(cluster: Cluster) -> PodIdentity:
    assert CLUSTER.kubernetes is not None
    api = HttpsApi(cluster.address, cluster.folder)
    return PodIdentity(
        api, CLUSTER.kubernetes, "node-7", lambda grant: workspace_pod(grant, CLUSTER, IMAGES, IMAGES.gateway)
    )


def test_the_pod_of_the_grant_is_let_in(cluster: Cluster) -> None:
    assert identity(cluster).check(asked(), a_grant()) == PodName(NAMESPACE, NAME, UID)


def _extra(part: str, value: list[str] | None) -> Callable[[Cluster], None]:
    def change(cluster: Cluster) -> None:
        extra = cluster.tokens["pod-token"]["user"]["extra"]
        del extra[f"authentication.kubernetes.io/pod-{part}"]
        if value:
            extra[f"authentication.kubernetes.io/pod-{part}"] = value

    return change


def _user(name: str) -> Callable[[Cluster], None]:
    return lambda cluster: cluster.tokens["pod-token"]["user"].update(username=name)


def _pod(change: Callable[[dict[str, Any]], Any]) -> Callable[[Cluster], None]:
    def changed(cluster: Cluster) -> None:
        change(cluster.pods[f"{NAMESPACE}/{NAME}"])

    return changed


ATTACKS: dict[str, Callable[[Cluster], Any]] = {
    "a token that the cluster does not know": lambda cluster: cluster.tokens.clear(),
    "an expired token": lambda cluster: cluster.tokens["pod-token"].update(authenticated=False),
    "a token with an error": lambda cluster: cluster.tokens["pod-token"].update(error="expired"),
    "a token for the cluster's api": lambda cluster: cluster.tokens["pod-token"].update(audiences=["https://api"]),
    "another pod's token": _extra("name", ["ws-other"]),
    "a token of an earlier pod of this name": _extra("uid", ["another"]),
    "a token that is bound to no pod": _extra("uid", None),
    "a token of another account": _user(f"system:serviceaccount:{NAMESPACE}:default"),
    "a token of another namespace": _user("system:serviceaccount:other:bulle-workspace"),
    "a pod that is gone": lambda cluster: cluster.pods.clear(),
    "a pod of the same name, made anew": _pod(lambda pod: pod["metadata"].update(uid="another")),
    "a pod on another node": _pod(lambda pod: pod["spec"].update(nodeName="node-8")),
    "one more container": _pod(lambda pod: pod["spec"]["containers"].append({"name": "mine", "image": "x"})),
    "a container for debugging": _pod(lambda pod: pod["spec"].update(ephemeralContainers=[{"name": "mine"}])),
    "another image": _pod(lambda pod: pod["spec"]["containers"][0].update(image="sha256:" + "e" * 64)),
    "no network lock": _pod(lambda pod: pod["spec"]["initContainers"].pop(0)),
    "a volume of the node": _pod(lambda pod: pod["spec"]["volumes"].append({"name": "h", "hostPath": {"path": "/"}})),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_else_is_let_in(cluster: Cluster, attack: str) -> None:
    ATTACKS[attack](cluster)
    with pytest.raises(GrantError):
        identity(cluster).check(asked(), a_grant())


@pytest.mark.parametrize(
    "changes",
    [
        {"namespace": "bulle-project-" + "2" * 32},
        {"name": "ws-" + "2" * 32},
        {"uid": "another"},
        {"uid": ""},
        {"ephemeral": "false"},
        {"token": ""},
        {"token": "été"},
        {"token": "another"},
    ],
)
def test_a_kubelet_that_asks_for_another_pod_is_refused(cluster: Cluster, changes: dict[str, str]) -> None:
    with pytest.raises(GrantError):
        identity(cluster).check(asked(**changes), a_grant())


def test_a_grant_of_another_session_or_project_is_refused(cluster: Cluster) -> None:
    with pytest.raises(GrantError, match="the grant is for pod"):
        identity(cluster).check(asked(), a_grant("2" * 32))
    with pytest.raises(GrantError, match="the grant is for pod"):
        identity(cluster).check(asked(), a_grant().model_copy(update={"project_id": "2" * 32}))


def test_without_the_comparison_a_pod_with_one_more_container_gets_in(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    ATTACKS["one more container"](cluster)
    monkeypatch.setattr(pod_identity, "differences", lambda wanted, found: [])
    assert identity(cluster).check(asked(), a_grant()).uid == UID


def test_the_agent_s_own_token_is_read_anew_when_it_is_renewed(cluster: Cluster) -> None:
    checks = identity(cluster)
    checks.check(asked(), a_grant())
    cluster.own = ["agent-2"]
    with pytest.raises(UnavailableError, match="401"):
        checks.check(asked(), a_grant())
    (cluster.folder / "token").write_text("agent-2\n")
    checks.check(asked(), a_grant())


def test_a_cluster_with_another_certificate_is_not_asked(cluster: Cluster, tmp_path: Path) -> None:
    authority(tmp_path / "other")
    api = HttpsApi(cluster.address, tmp_path / "other")
    with pytest.raises(UnavailableError):
        api.read_pod(NAMESPACE, NAME)


@pytest.mark.parametrize("status", [302, 403, 500])
def test_a_cluster_that_does_not_answer_lets_nobody_in(cluster: Cluster, status: int) -> None:
    cluster.status = status
    with pytest.raises(UnavailableError):
        identity(cluster).check(asked(), a_grant())


def test_no_name_leads_to_another_path_of_the_cluster_s_api(cluster: Cluster) -> None:
    api = HttpsApi(cluster.address, cluster.folder)
    for namespace, name in (("..", "x"), ("x/../y", "z"), ("x", "y?z"), ("x", "")):
        assert api.read_pod(namespace, name) is None
