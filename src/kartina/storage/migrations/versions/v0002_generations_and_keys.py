"""Generations and their images, idempotency keys, assets, API keys and what each owner has used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "generations",
        sa.Column("id", KEY, primary_key=True),
        sa.Column("owner", KEY, nullable=False),
        sa.Column("model", KEY, nullable=False),
        sa.Column("model_hash", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("status", KEY, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("history", sa.JSON, nullable=False),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("steps", sa.Integer, nullable=False),
        sa.Column("error", sa.JSON(none_as_null=True)),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("completed_at", sa.Double),
    )
    op.create_index("generations_by_owner", "generations", ["owner", "id"])
    op.create_index("generations_by_status", "generations", ["status", "id"])
    op.create_table(
        "images",
        sa.Column("id", KEY, primary_key=True),
        sa.Column("owner", KEY, nullable=False),
        sa.Column("generation", KEY, sa.ForeignKey("generations.id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("model", KEY, nullable=False),
        sa.Column("label", KEY),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("event", sa.BigInteger, nullable=False),
        sa.Column("favourite", sa.Boolean, nullable=False),
        sa.Column("trashed_at", sa.Double),
    )
    op.create_index("images_by_generation", "images", ["generation"])
    kept = sa.column("trashed_at").is_(None)
    for name, where in (("images", kept), ("favourites", sa.and_(kept, sa.column("favourite").is_(sa.true())))):
        for suffix, columns in (
            ("time", []),
            ("model", ["model"]),
            ("label", ["label"]),
            ("model_and_label", ["model", "label"]),
        ):
            indexed = ["owner", *columns, "id"]
            op.create_index(f"{name}_by_{suffix}", "images", indexed, sqlite_where=where, postgresql_where=where)
    trash = sa.column("trashed_at").is_not(None)
    op.create_index("images_in_trash", "images", ["owner", "id"], sqlite_where=trash, postgresql_where=trash)
    op.create_index("images_to_purge", "images", ["trashed_at"], sqlite_where=trash, postgresql_where=trash)
    op.create_table(
        "idempotency",
        sa.Column("owner", KEY, primary_key=True),
        sa.Column("key", KEY, primary_key=True),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"])
    op.create_table(
        "assets",
        sa.Column("id", KEY, primary_key=True),
        sa.Column("owner", KEY, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("blob", sa.Text, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("channels", sa.Integer, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.UniqueConstraint("owner", "hash", name="assets_of_one_owner"),
    )
    op.create_index("assets_by_owner", "assets", ["owner", "id"])
    op.create_table(
        "api_keys",
        sa.Column("id", KEY, primary_key=True),
        sa.Column("prefix", sa.Text, nullable=False, unique=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("used_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
    )
    op.create_table(
        "usage",
        sa.Column("owner", KEY, primary_key=True),
        sa.Column("images", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("day", sa.Text, nullable=False),
        sa.Column("steps", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("usage", "api_keys", "assets", "idempotency", "images", "generations"):
        op.drop_table(table)
