"""The node agent with a hole made on purpose: ``python -m tests.integration.agent_holes HOLE``.

Each hole takes one control away from every sandbox, so that a test can see the probe refuse it.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import orchestrator.workspaces.docker as docker_runtime
from orchestrator.config import Settings, load_settings
from orchestrator.node.agent import Parts, real_parts, serve
from orchestrator.workspaces.spec import ContainerSpec, PartName, bridge_network

_arguments = docker_runtime.create_arguments


def holed(hole: str, network: str) -> Any:
    def arguments(spec: ContainerSpec) -> dict[str, Any]:
        body = _arguments(spec)
        if spec.part is not PartName.SANDBOX:
            return body
        host = body["HostConfig"]
        match hole:
            case "network":
                body = _arguments(dataclasses.replace(spec, network=network))
            case "capability":
                host["CapAdd"] = ["NET_RAW"]
            case "writable-root":
                host["ReadonlyRootfs"] = False
            case "privileges":
                host["SecurityOpt"] = [each for each in host["SecurityOpt"] if each != "no-new-privileges"]
            case "core-dumps":
                host["Ulimits"] = [{"Name": "core", "Soft": -1, "Hard": -1}]
            case "engine-socket":
                host["Mounts"].append(
                    {"Type": "bind", "Source": "/var/run/docker.sock", "Target": "/var/run/docker.sock"}
                )
            case "environment":
                body["Env"].append("JUPYTERHUB_API_TOKEN=planted")
            case "device":
                host["Devices"] = [
                    {"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"}
                ]
        return body

    return arguments


def main() -> None:
    hole = sys.argv[1]
    settings = load_settings(Path(os.environ["BULLE_SETTINGS"]))
    docker_runtime.create_arguments = holed(hole, bridge_network(settings.deployment))

    def parts(chosen: Settings) -> Parts:
        made = real_parts(chosen)
        if hole == "seccomp":
            made.seccomp = None
        return made

    serve(settings, parts)


if __name__ == "__main__":
    main()
