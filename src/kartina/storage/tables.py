"""The tables, as the newest migration leaves them (a test compares the two)."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("key", sa.Text, unique=True),  # of an idempotent submission
    sa.Column("status", sa.Text, nullable=False),  # queued, running, canceling, succeeded, failed, canceled
    sa.Column("saved", sa.JSON, nullable=False),  # where the next attempt goes on
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("owner", sa.Text),  # the worker that has it
    sa.Column("attempt", sa.Integer, nullable=False),  # raised by every claim
    sa.Column("heartbeat", sa.Double),  # when the owner was last heard of
    sa.Column("leased_until", sa.Double),  # when it counts as dead
    sa.Column("tries", sa.Integer, nullable=False),  # attempts since `saved` last changed that ended badly
    sa.Column("max_tries", sa.Integer, nullable=False),
    sa.Column("not_before", sa.Double, nullable=False),  # no claim before this time
    sa.Column("last_event", sa.Integer, nullable=False),
    sa.Column("result", sa.JSON(none_as_null=True)),
    sa.Column("output", sa.Text),  # the attempt's folder that was committed
    sa.Column("error", sa.JSON(none_as_null=True)),  # {"code", "message"}
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("completed_at", sa.Double),
    sa.Index("jobs_by_status", "status", "id"),
    sqlite_autoincrement=True,  # an id is never given twice
)

job_events = sa.Table(
    "job_events",
    metadata,
    sa.Column("job", sa.Integer, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),  # rises within a job
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("event", sa.Text, nullable=False),  # status, progress, log
    sa.Column("data", sa.JSON, nullable=False),
)

blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),  # sha256
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("stored", sa.Boolean, nullable=False),  # its bytes have arrived
    sa.Column("unused_since", sa.Double, index=True),  # NULL while somebody refers to it
)

blob_refs = sa.Table(
    "blob_refs",
    metadata,
    sa.Column("hash", sa.Text, sa.ForeignKey("blobs.hash"), primary_key=True),
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Index("blob_refs_by_owner", "owner"),
)
