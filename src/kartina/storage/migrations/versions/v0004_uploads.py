"""Uploads of archives, and what they, data sets and bulk generations count for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "holdings",
        sa.Column("thing", KEY, primary_key=True),
        sa.Column("owner", KEY, nullable=False),
        sa.Column("images", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "uploads",
        sa.Column("id", KEY, primary_key=True),
        sa.Column("owner", KEY, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("received", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text),
        sa.Column("digest", sa.Text),
        sa.Column("job", sa.Integer),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("used_at", sa.Double, nullable=False),
    )
    op.create_index("ix_uploads_used_at", "uploads", ["used_at"])
    op.create_index("uploads_by_owner", "uploads", ["owner", "id"])
