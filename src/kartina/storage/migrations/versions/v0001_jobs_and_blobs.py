"""Jobs with their events, and blobs with who refers to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("key", sa.Text, unique=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("saved", sa.JSON, nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("heartbeat", sa.Double),
        sa.Column("leased_until", sa.Double),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("max_tries", sa.Integer, nullable=False),
        sa.Column("not_before", sa.Double, nullable=False),
        sa.Column("last_event", sa.Integer, nullable=False),
        sa.Column("result", sa.JSON),
        sa.Column("output", sa.Text),
        sa.Column("error", sa.JSON),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("completed_at", sa.Double),
        sqlite_autoincrement=True,
    )
    op.create_index("jobs_by_status", "jobs", ["status", "id"])
    op.create_table(
        "job_events",
        sa.Column("job", sa.Integer, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
    )
    op.create_table(
        "blobs",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("stored", sa.Boolean, nullable=False),
        sa.Column("unused_since", sa.Double),
    )
    op.create_index("ix_blobs_unused_since", "blobs", ["unused_since"])
    op.create_table(
        "blob_refs",
        sa.Column("hash", sa.Text, sa.ForeignKey("blobs.hash"), primary_key=True),
        sa.Column("owner", sa.Text, primary_key=True),
    )
    op.create_index("blob_refs_by_owner", "blob_refs", ["owner"])


def downgrade() -> None:
    for table in ("blob_refs", "blobs", "job_events", "jobs"):
        op.drop_table(table)
