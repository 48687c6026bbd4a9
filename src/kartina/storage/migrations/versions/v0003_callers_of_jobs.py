"""Jobs belong to whoever asked for them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("caller", KEY, nullable=False, server_default="local"))
    op.create_index("jobs_by_caller", "jobs", ["caller", "id"])


def downgrade() -> None:
    op.drop_index("jobs_by_caller", "jobs")
    op.drop_column("jobs", "caller")
