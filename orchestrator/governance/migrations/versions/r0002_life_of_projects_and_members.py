"""Applications, terms, trainings, reviews, passkeys and decisions, tokens, usage, notices, deletion."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

#: in which the lead confirms each member who was active before there were reviews; the settings' default
REVIEW = timedelta(days=180)

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add tables and columns; every row of before stays as it is."""
    _tables()
    _columns()
    _review_members()
    # Programs of before the migrations look here, and turn away from a store that they do not know.
    op.execute("UPDATE schema_version SET version = 2")


def _tables() -> None:
    op.create_table(
        "acceptance",
        sa.Column("person_id", sa.String(64), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("accepted_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.PrimaryKeyConstraint("person_id", "version"),
    )
    op.create_table(
        "api_token",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("person_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("expires", _MOMENT, nullable=False),
        sa.Column("used_at", _MOMENT),
        sa.Column("revoked_at", _MOMENT),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index("ix_api_token_person_id", "api_token", ["person_id"])
    op.create_table(
        "application",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("drafted_by", sa.String(64), nullable=False),
        sa.Column("drafted_at", _MOMENT, nullable=False),
        sa.Column("submitted_by", sa.String(64)),
        sa.Column("submitted_at", _MOMENT),
        sa.Column("checked_by", sa.String(64)),
        sa.Column("decided_by", sa.String(64)),
        sa.Column("decided_at", _MOMENT),
        sa.Column("conditions", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("permit_version", sa.Integer),
        sa.ForeignKeyConstraint(["drafted_by"], ["person.id"]),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project_id", "number"),
    )
    op.create_index("ix_application_drafted_by", "application", ["drafted_by"])
    op.create_index("ix_application_state", "application", ["state"])
    undecided = sa.text("state IN ('draft', 'submitted', 'returned', 'complete')")
    op.create_index(
        "application_one_open",
        "application",
        ["project_id"],
        unique=True,
        sqlite_where=undecided,
        postgresql_where=undecided,
    )
    op.create_table(
        "deletion",
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("certificate", sa.Text, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("project_id"),
    )
    op.create_table(
        "endorsement",
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("project_id", sa.String(32)),
        sa.Column("person_id", sa.String(64)),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("subject"),
    )
    op.create_index("ix_endorsement_project_id", "endorsement", ["project_id"])
    op.create_table(
        "notice",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("key", sa.String(200), nullable=False),
        sa.Column("person_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(32)),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("sent_at", _MOMENT),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    op.create_index("ix_notice_person_id", "notice", ["person_id"])
    op.create_index("ix_notice_sent_at", "notice", ["sent_at"])
    op.create_table(
        "passkey",
        sa.Column("id", sa.String(400), nullable=False),
        sa.Column("person_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("sign_count", sa.Integer, nullable=False),
        sa.Column("transports", sa.JSON, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("vouched_by", sa.String(64)),
        sa.Column("vouched_at", _MOMENT),
        sa.Column("removed_at", _MOMENT),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_passkey_person_id", "passkey", ["person_id"])
    op.create_table(
        "quota",
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("most", sa.Float, nullable=False),
        sa.Column("set_by", sa.String(64), nullable=False),
        sa.Column("set_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("project_id", "kind"),
    )
    op.create_table(
        "storage",
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("person_id", sa.String(64), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("bytes_used", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("project_id", "person_id", "day"),
    )
    op.create_table(
        "training",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("person_id", sa.String(64), nullable=False),
        sa.Column("course", sa.String(200), nullable=False),
        sa.Column("evidence", sa.String(500), nullable=False),
        sa.Column("completed", _MOMENT, nullable=False),
        sa.Column("expires", _MOMENT, nullable=False),
        sa.Column("declared_by", sa.String(64), nullable=False),
        sa.Column("declared_at", _MOMENT, nullable=False),
        sa.Column("confirmed_by", sa.String(64)),
        sa.Column("confirmed_at", _MOMENT),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_training_person_id", "training", ["person_id"])
    op.create_table(
        "usage",
        sa.Column("session", sa.String(32), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("project_id", sa.String(32), nullable=False),
        sa.Column("person_id", sa.String(64), nullable=False),
        sa.Column("began", _MOMENT, nullable=False),
        sa.Column("seen", _MOMENT, nullable=False),
        sa.Column("ended", _MOMENT),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("cpu_seconds", sa.Float, nullable=False),
        sa.Column("memory_gb_seconds", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["person.id"]),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("session", "month"),
    )
    op.create_index("usage_of_month", "usage", ["month"])
    op.create_index("usage_of_person", "usage", ["person_id", "month"])
    op.create_index("usage_of_project", "usage", ["project_id", "month"])
    op.create_table(
        "decision",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("project_id", sa.String(32)),
        sa.Column("person_id", sa.String(64)),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("passkey_id", sa.String(400), nullable=False),
        sa.Column("assertion", sa.JSON, nullable=False),
        sa.Column("at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(["passkey_id"], ["passkey.id"]),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("decision_of", "decision", ["project_id", "action", "person_id"])


def _columns() -> None:
    op.add_column("membership", sa.Column("consented_by", sa.String(64)))
    op.add_column("membership", sa.Column("review_due", _MOMENT))
    op.add_column("membership", sa.Column("confirmed_by", sa.String(64)))
    op.drop_index("ix_membership_project_id", table_name="membership")
    op.add_column("person", sa.Column("external", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("person", sa.Column("affiliation", sa.String(200), nullable=False, server_default=""))
    op.add_column("person", sa.Column("gone_at", _MOMENT))
    op.add_column("platform_role", sa.Column("from_provider", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index("ix_platform_role_role", "platform_role", ["role"])
    op.add_column("project", sa.Column("lay_summary", sa.Text, nullable=False, server_default=""))
    op.add_column("project", sa.Column("legal_basis", sa.Text, nullable=False, server_default=""))
    op.add_column("project", sa.Column("outputs", sa.Text, nullable=False, server_default=""))
    op.add_column("project", sa.Column("conditions", sa.Text, nullable=False, server_default=""))
    op.add_column("project", sa.Column("closed_at", _MOMENT))
    op.add_column("project", sa.Column("retain_until", _MOMENT))
    op.add_column("project", sa.Column("archived_at", _MOMENT))
    op.add_column("project", sa.Column("retain_days", sa.Integer))
    op.create_index("ix_project_retain_until", "project", ["retain_until"])


def _review_members() -> None:
    # Not none: they would be members for as long as the project lasts without anybody looking again.
    members = sa.table("membership", sa.column("state", sa.String), sa.column("review_due", _MOMENT))
    due = datetime.now(UTC) + REVIEW
    op.execute(members.update().where(members.c.state == "active").values(review_due=due))
