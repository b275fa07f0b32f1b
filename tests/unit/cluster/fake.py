"""A cluster's API: a real HTTPS server that keeps objects, and lets each token do what the table of rights says.

What is not in the table for a part is noted as ``beyond``, and fails the test; what is, as ``used``.
"""

from __future__ import annotations

import base64
import copy
import json
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from orchestrator.cluster.rights import RIGHTS, Part, Right, Where
from orchestrator.cluster_api import RESOURCES, HttpsApi
from tests.unit.node.test_pod_identity import authority

Manifest = dict[str, Any]
Key = tuple[str, str, str]
CONTROL = "bulle"
_GROUPS = {"/api/v1": "", "/apis/networking.k8s.io/v1": "networking.k8s.io"}
_GROUPS["/apis/rbac.authorization.k8s.io/v1"] = "rbac.authorization.k8s.io"
PARTS = ("display", "bridge", "sandbox")
FINDING = "tcp 192.0.2.1:443: open"


def _inits(lock: Manifest) -> list[Manifest]:
    return [{"name": "network-lock", "state": lock}]


DONE = {"terminated": {"exitCode": 0, "reason": "Completed"}}
RUNNING: Manifest = {"running": {}}
WAITING: Manifest = {"waiting": {"reason": "PodInitializing"}}
PLACED = [{"type": "PodScheduled", "status": "True"}]


def status(inits: list[Manifest], parts: Manifest, *, ready: bool = False, **more: Any) -> Manifest:
    conditions = [*PLACED, {"type": "Ready", "status": "True" if ready else "False"}]
    parts_said = [{"name": each, "state": parts} for each in PARTS]
    return {
        "phase": "Running" if parts is RUNNING else "Pending",
        "podIP": "10.244.0.9",
        "conditions": conditions,
        "initContainerStatuses": inits,
        "containerStatuses": parts_said,
        **more,
    }


#: what kubelet says of a pod, from one look to the next; the last stays
GOOD = [
    {"phase": "Pending"},
    {"phase": "Pending", "conditions": PLACED},
    status(_inits(RUNNING), WAITING),
    status(_inits(DONE), WAITING),
    status(_inits(DONE), RUNNING, ready=True),
]
STUCK = GOOD[:4]


def _sandbox_ended(message: str) -> Manifest:
    said = status(_inits(DONE), RUNNING)
    said["containerStatuses"][2]["state"] = {"terminated": {"exitCode": 1, "message": message}}
    return said


OPEN = [*STUCK, _sandbox_ended(f"{FINDING}\nisolation-probe: 1 of 9 attempts are open")]


class FakeCluster:
    def __init__(self, folder: Path) -> None:
        authority(folder)
        self.folder = folder
        self.objects: dict[Key, Manifest] = {}
        self.beyond: list[str] = []
        self.used: set[tuple[Part, Where, str, str]] = set()
        self.calls: list[str] = []
        self.silent = False
        #: what is said of the next pods
        self.script: list[Manifest] = GOOD
        self.refuse_pods = ""
        #: called with each call before it is answered
        self.meddle: Callable[[str], None] = lambda call: None
        self._version = 0
        self._looks: dict[str, list[Manifest]] = {}
        self.lock = threading.RLock()
        self.add("namespaces", "", {"metadata": {"name": CONTROL}})
        self.add("configmaps", CONTROL, {"metadata": {"name": "bulle-projects"}})
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: Any) -> None: ...

            def _any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                content = json.loads(self.rfile.read(length)) if length else None
                code, body = cluster.answer(self.command, self.path, self.headers.get("Authorization", ""), content)
                told = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(told)))
                self.end_headers()
                self.wfile.write(told)

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", Handler._any)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "ca.crt", folder / "key.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def api(self, part: Part) -> HttpsApi:
        """The API with a part's own service account."""
        account = self.folder / part.name
        account.mkdir(exist_ok=True)
        (account / "ca.crt").write_bytes((self.folder / "ca.crt").read_bytes())
        (account / "token").write_text(f"{part.name}\n")
        return HttpsApi(f"https://127.0.0.1:{self.server.server_port}", account)

    # -- for tests --------------------------------------------------------------------------------------------
    def add(self, kind: str, namespace: str, wanted: Manifest) -> Manifest:
        with self.lock:
            self._version += 1
            made = copy.deepcopy(wanted)
            made["metadata"] |= {"uid": str(uuid.uuid4()), "resourceVersion": str(self._version)}
            for key, value in made.pop("stringData", {}).items():
                made.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()
            self.objects[(kind, namespace, made["metadata"]["name"])] = made
            if kind == "pods" and "status" not in made:
                self._looks[made["metadata"]["uid"]] = list(self.script)
                self._look(made)
            return made

    def of(self, kind: str, namespace: str | None = None) -> list[Manifest]:
        with self.lock:
            return [
                copy.deepcopy(each)
                for (found, where, _), each in sorted(self.objects.items())
                if found == kind and namespace in (None, where)
            ]

    def names(self, kind: str) -> list[str]:
        return [each["metadata"]["name"] for each in self.of(kind)]

    def remove(self, kind: str, namespace: str, name: str) -> None:
        with self.lock:
            del self.objects[(kind, namespace, name)]

    def change(self, kind: str, namespace: str, name: str, **parts: Any) -> None:
        with self.lock:
            self.objects[(kind, namespace, name)] |= parts

    # -- what it answers --------------------------------------------------------------------------------------
    def answer(self, method: str, path: str, authorization: str, content: Any) -> tuple[int, Manifest]:
        self.meddle(f"{method} {path}")
        if self.silent:
            return 503, {"message": "etcd is away"}
        with self.lock:
            return self._answer(method, path, authorization.removeprefix("Bearer "), content)

    def _answer(self, method: str, path: str, token: str, content: Any) -> tuple[int, Manifest]:
        place = urlsplit(path)
        root = next(each for each in _GROUPS if place.path.startswith(f"{each}/"))
        words = place.path.removeprefix(f"{root}/").split("/")
        namespace = words[1] if len(words) > 2 and words[0] == "namespaces" else ""
        kind, *rest = words[2:] if namespace else words
        name = rest[0] if rest else ""
        assert RESOURCES[kind] == root
        verb = {"GET": "get" if name else "list", "POST": "create", "PUT": "update", "PATCH": "patch"}.get(
            method, "delete"
        )
        call = f"{verb} {kind} {namespace}/{name}"
        self.calls.append(call)
        if not self._may(Part[token], _GROUPS[root], kind, verb, namespace, name):
            return 403, {"message": f"{kind} is forbidden: {token} cannot {verb}"}
        query = {key: value[0] for key, value in parse_qs(place.query).items()}
        return getattr(self, f"_{verb}")(kind, namespace, name, content, query)  # type: ignore[no-any-return]

    def _may(self, part: Part, group: str, kind: str, verb: str, namespace: str, name: str) -> bool:
        allowed = False
        known = False
        for right in RIGHTS:
            if (right.part, right.group, right.resource) != (part, group, kind) or verb not in right.verbs:
                continue
            if right.named and name != f"bulle-{right.named}":
                continue
            known = True
            if self._holds(right, namespace):
                allowed = True
                self.used.add((part, right.where, kind, verb))
        if not known:
            self.beyond.append(f"{part}: {verb} {kind} {namespace}/{name}")
        return allowed

    def _holds(self, right: Right, namespace: str) -> bool:
        if right.where is Where.CLUSTER:
            return True
        if right.where is Where.CONTROL:
            return namespace == CONTROL
        subject = {"kind": "ServiceAccount", "name": "bulle-control", "namespace": CONTROL}
        return any(
            each["roleRef"]["name"] == "bulle-project" and subject in each["subjects"]
            for each in self.of("rolebindings", namespace)
        )

    def _get(self, kind: str, namespace: str, name: str, content: Any, query: Any) -> tuple[int, Manifest]:
        found = self.objects.get((kind, namespace, name))
        if found is None:
            return 404, {"message": f"{kind} {name} not found"}
        if kind == "pods":
            self._look(found)
        return 200, copy.deepcopy(found)

    def _look(self, pod: Manifest) -> None:
        script = self._looks.get(pod["metadata"]["uid"])
        if script:
            pod["status"] = copy.deepcopy(script.pop(0) if len(script) > 1 else script[0])

    def _list(self, kind: str, namespace: str, name: str, content: Any, query: Any) -> tuple[int, Manifest]:
        found = self.of(kind, namespace)
        for pair in filter(None, query.get("labelSelector", "").split(",")):
            key, _, value = pair.partition("=")
            found = [each for each in found if each["metadata"].get("labels", {}).get(key) == value]
        key, _, value = query.get("fieldSelector", "").partition("=")
        if key:
            assert key == "involvedObject.uid"
            found = [each for each in found if each["involvedObject"]["uid"] == value]
        at, most = int(query.get("continue", 0)), int(query["limit"])
        after = str(at + most) if len(found) > at + most else ""
        return 200, {"items": found[at : at + most], "metadata": {"continue": after}}

    def _create(self, kind: str, namespace: str, name: str, content: Any, query: Any) -> tuple[int, Manifest]:
        where = self.objects.get(("namespaces", "", namespace))
        if namespace and where is None:
            return 404, {"message": f"namespaces {namespace} not found"}
        if where is not None and where["metadata"].get("deletionTimestamp"):
            return 403, {"message": "unable to create new content because it is being terminated"}
        if kind == "pods" and self.refuse_pods:
            return 403, {"message": self.refuse_pods}
        if kind == "rolebindings":
            # the right to bind one role only
            assert content["roleRef"]["name"] == "bulle-project"
            self.used.add((Part.NAMESPACES, Where.CLUSTER, "clusterroles", "bind"))
        if (kind, namespace, content["metadata"]["name"]) in self.objects:
            return 409, {"message": "already exists"}
        return 201, copy.deepcopy(self.add(kind, namespace, content))

    def _update(self, kind: str, namespace: str, name: str, content: Any, query: Any) -> tuple[int, Manifest]:
        found = self.objects.get((kind, namespace, name))
        if found is None:
            return 404, {"message": "not found"}
        if content["metadata"].get("resourceVersion") not in (None, found["metadata"]["resourceVersion"]):
            return 409, {"message": "the object has been modified"}
        uid = found["metadata"]["uid"]
        made = self.add(kind, namespace, content)
        made["metadata"]["uid"] = uid
        return 200, copy.deepcopy(made)

    def _patch(self, kind: str, namespace: str, name: str, content: Any, query: Any) -> tuple[int, Manifest]:
        found = self.objects.get((kind, namespace, name))
        if found is None:
            return 404, {"message": "not found"}
        for key in ("labels", "annotations"):
            found["metadata"].setdefault(key, {}).update(content["metadata"].get(key, {}))
        return 200, copy.deepcopy(found)

    def _delete(self, kind: str, namespace: str, name: str, content: Any, query: Any) -> tuple[int, Manifest]:
        found = self.objects.get((kind, namespace, name))
        if found is None:
            return 404, {"message": "not found"}
        wanted = (content or {}).get("preconditions", {}).get("uid")
        if wanted not in (None, found["metadata"]["uid"]):
            return 409, {"message": "another one"}
        del self.objects[(kind, namespace, name)]
        if kind == "namespaces":
            for key in [key for key in self.objects if key[1] == name]:
                del self.objects[key]
        return 200, {}


@contextmanager
def fake_cluster(folder: Path) -> Iterator[FakeCluster]:
    cluster = FakeCluster(folder)
    try:
        yield cluster
    finally:
        cluster.server.shutdown()
        cluster.server.server_close()
    assert cluster.beyond == [], "calls beyond the table of rights"
