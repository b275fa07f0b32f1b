"""The demo: a deployment on loopback with its own OpenID provider, two real data sets, two projects, eight people.

Everything it does goes through the same functions as the command line, with the people who may do it: the custodian
creates the projects and approves the permits, the lead approves the members. Running it again changes nothing.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from orchestrator.addresses import addresses
from orchestrator.cli.demo.content import create_content
from orchestrator.config import Settings, Uid, load_settings
from orchestrator.machine import images as machine_images
from orchestrator.machine.deployment import Deployment
from orchestrator.machine.state import SharedSecret, ensure_secret, prepare_state, write_secret

Say = Callable[[str], None]

DEFAULT_STATE = Path("/var/lib/bulle/demo")
SETTINGS_NAME = "bulle.yaml"


@dataclass(frozen=True)
class Person:
    """One of the demo's people; named by role, invented nobody."""

    name: str
    what: str
    platform_role: str | None = None
    password: str = ""


PEOPLE = (
    Person("lead", "leads both projects and approves their members"),
    Person("researcher", "member of doctor-visits"),
    Person("researcher2", "member of doctor-visits and colon-survival"),
    Person("custodian", "creates projects, approves permits", "custodian"),
    Person("reviewer", "checks what leaves (the airlock is not in this version)", "reviewer"),
    Person("auditor", "reads the audit log", "auditor"),
    Person("admin", "runs the platform, sees no data", "administrator"),
    Person("outsider", "can log in, is in no project"),
)


@dataclass(frozen=True)
class Place:
    """Where a demo lives, so that several (the demo, a test) can stand side by side on one machine."""

    deployment: str = "demo"
    state: Path = DEFAULT_STATE
    port: int = 8000
    internal_port: int = 8081
    bridge_subnet: str = "172.31.250.0/24"

    @property
    def settings_file(self) -> Path:
        """The settings file that :func:`up` writes once and an administrator may change."""
        return self.state / SETTINGS_NAME


@dataclass(frozen=True)
class Running:
    """A demo that is up."""

    url: str
    people: tuple[Person, ...]
    settings: Settings


def write_settings(place: Place, extra: dict[str, object] | None = None) -> Settings:
    """Write the demo's settings file unless it is there, and read it."""
    if not place.settings_file.exists():
        place.state.mkdir(parents=True, exist_ok=True)
        wanted = {
            "deployment": place.deployment,
            "state": str(place.state),
            # A name, because browsers bind passkeys to names only; it is this machine all the same.
            "public_url": f"http://localhost:{place.port}",
            "listen": f"127.0.0.1:{place.port}",
            "internal_port": place.internal_port,
            "bridge_subnet": place.bridge_subnet,
            "oidc": {
                "issuer": f"http://127.0.0.1:{place.internal_port + 3}",
                "client_id": "bulle",
                "client_secret_file": str(place.state / "secrets" / "hub" / "client-secret"),
            },
            **(extra or {}),
        }
        place.settings_file.write_text(yaml.safe_dump(wanted, sort_keys=False), encoding="utf-8")
    settings = load_settings(place.settings_file)
    place.settings_file.chmod(0o644)
    return settings


def _accounts(settings: Settings) -> tuple[Person, ...]:
    """The demo provider's accounts; one password for all, made once, readable to the provider only."""
    layout = settings.layout
    hub, provider = layout.secrets / "hub", layout.secrets / "demo-idp"
    ensure_secret(
        SharedSecret("client-secret", ((hub / "client-secret", Uid.HUB), (provider / "client-secret", Uid.DEMO_IDP)))
    )
    path = provider / "accounts.json"
    if not path.exists():
        password = secrets.token_urlsafe(9)
        made = {
            person.name: {"password": password, "name": person.name, "email": f"{person.name}@example.org"}
            for person in PEOPLE
        }
        write_secret(path, json.dumps(made), Uid.DEMO_IDP)
    stored: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return tuple(
        Person(person.name, person.what, person.platform_role, stored[person.name]["password"]) for person in PEOPLE
    )


def up(
    say: Say,
    place: Place | None = None,
    *,
    images: dict[str, str] | None = None,
    extra: dict[str, object] | None = None,
) -> Running:
    """Build, ingest, decide and start; returns when the login page answers.

    ``images`` (name to digest) skips building; ``extra`` are settings for a deployment that is made anew.
    """
    place = place or Place()
    settings = write_settings(place, extra)
    prepare_state(settings)
    people = _accounts(settings)
    ids = images or machine_images.build_images(None, progress=say)
    machine_images.write_images_json(settings.layout.images, ids)
    until = datetime.now(UTC) + timedelta(days=365)
    create_content(settings, people_roles={p.name: p.platform_role for p in people}, until=until, say=say)
    Deployment(settings, place.settings_file, ids, demo_idp=True).up(say)
    assert addresses(settings).demo_idp_port == place.internal_port + 3  # noqa: S101 - the issuer written above
    return Running(settings.public_url, people, settings)


def down(say: Say, place: Place | None = None) -> None:
    """Stop the demo. Its state stays; remove its folder to begin anew."""
    place = place or Place()
    if not place.settings_file.exists():
        say("no demo is set up")
        return
    settings = load_settings(place.settings_file)
    Deployment(settings, place.settings_file, {}, demo_idp=True).down(say)
