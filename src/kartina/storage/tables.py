"""The tables, as the newest migration leaves them (a test compares the two)."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

# Keys are compared byte by byte on both databases: ids sort by time, and a page is a range of them.
KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("key", sa.Text, unique=True),  # of an idempotent submission
    sa.Column("status", sa.Text, nullable=False),  # queued, running, canceling, succeeded, failed, canceled, expired
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
    sa.Column("caller", KEY, nullable=False, server_default="local"),  # whose it is: the local session's, or a key's
    sa.Index("jobs_by_status", "status", "id"),
    sa.Index("jobs_by_caller", "caller", "id"),
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

generations = sa.Table(
    "generations",
    metadata,
    sa.Column("id", KEY, primary_key=True),  # sorts by time
    sa.Column("owner", KEY, nullable=False),
    sa.Column("model", KEY, nullable=False),  # name@version
    sa.Column("model_hash", sa.Text, nullable=False),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("request", sa.JSON, nullable=False),  # labels, n, seed, controls, inputs, format, width, height
    sa.Column("status", KEY, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),  # raised by every service that takes it up
    sa.Column("crashes", sa.Integer, nullable=False),  # services that died while it was running
    sa.Column("history", sa.JSON, nullable=False),  # [[event, status], ...]
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("steps", sa.Integer, nullable=False),
    sa.Column("error", sa.JSON(none_as_null=True)),  # {"code", "message"}
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("completed_at", sa.Double),
    sa.Index("generations_by_owner", "owner", "id"),
    sa.Index("generations_by_status", "status", "id"),
)

images = sa.Table(
    "images",
    metadata,
    sa.Column("id", KEY, primary_key=True),  # the generation's id and the index: sorts by time
    sa.Column("owner", KEY, nullable=False),
    sa.Column("generation", KEY, sa.ForeignKey("generations.id"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),  # which of the n
    sa.Column("model", KEY, nullable=False),
    sa.Column("label", KEY),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("format", sa.Text, nullable=False),  # png, webp
    sa.Column("hash", sa.Text, nullable=False),  # of its blob
    sa.Column("size", sa.Integer, nullable=False),  # bytes
    sa.Column("event", sa.BigInteger, nullable=False),  # the number of the event that told of it
    sa.Column("favourite", sa.Boolean, nullable=False),
    sa.Column("trashed_at", sa.Double),
    sa.Index("images_by_generation", "generation"),
)


def _gallery_index(name: str, *columns: str, favourite: bool = False) -> None:
    """An index of what the gallery shows, newest last; filters are its leading columns, so any page is one range."""
    kept = images.c.trashed_at.is_(None)
    where = sa.and_(kept, images.c.favourite.is_(sa.true())) if favourite else kept
    found = [images.c[column] for column in ("owner", *columns, "id")]
    sa.Index(name, *found, sqlite_where=where, postgresql_where=where)


for _favourite, _name in ((False, "images"), (True, "favourites")):
    _gallery_index(f"{_name}_by_time", favourite=_favourite)
    _gallery_index(f"{_name}_by_model", "model", favourite=_favourite)
    _gallery_index(f"{_name}_by_label", "label", favourite=_favourite)
    _gallery_index(f"{_name}_by_model_and_label", "model", "label", favourite=_favourite)
_trash = images.c.trashed_at.is_not(None)
sa.Index("images_in_trash", images.c.owner, images.c.id, sqlite_where=_trash, postgresql_where=_trash)
sa.Index("images_to_purge", images.c.trashed_at, sqlite_where=_trash, postgresql_where=_trash)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("owner", KEY, primary_key=True),
    sa.Column("key", KEY, primary_key=True),
    sa.Column("request", sa.Text, nullable=False),  # sha256 of what was asked
    sa.Column("answer", sa.Text),  # id of what it made; NULL while it is being accepted
    sa.Column("created_at", sa.Double, nullable=False, index=True),
)

assets = sa.Table(
    "assets",
    metadata,
    sa.Column("id", KEY, primary_key=True),
    sa.Column("owner", KEY, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),  # sha256 of the bytes as they came
    sa.Column("blob", sa.Text, nullable=False),  # of the clean PNG that was made of them
    sa.Column("size", sa.Integer, nullable=False),  # bytes of that PNG
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("channels", sa.Integer, nullable=False),  # 1 grey, 3 colour
    sa.Column("note", sa.Text, nullable=False),  # what was done to it
    sa.Column("created_at", sa.Double, nullable=False),
    sa.UniqueConstraint("owner", "hash", name="assets_of_one_owner"),
    sa.Index("assets_by_owner", "owner", "id"),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", KEY, primary_key=True),
    sa.Column("prefix", sa.Text, nullable=False, unique=True),  # the part that a key is found by
    sa.Column("digest", sa.Text, nullable=False),  # HMAC-SHA-256 of the whole key
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("limits", sa.JSON, nullable=False),  # rate, steps, images, bytes
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("used_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("owner", KEY, primary_key=True),
    sa.Column("images", sa.BigInteger, nullable=False),  # stored, and promised by unfinished generations
    sa.Column("bytes", sa.BigInteger, nullable=False),  # of stored images and assets, and of `holdings`
    sa.Column("day", sa.Text, nullable=False),  # the day (UTC) that `steps` counts
    sa.Column("steps", sa.BigInteger, nullable=False),  # n x steps accepted on it
)

holdings = sa.Table(
    "holdings",
    metadata,
    sa.Column("thing", KEY, primary_key=True),  # upload:ID, dataset:NAME, bulk:ID
    sa.Column("owner", KEY, nullable=False),
    sa.Column("images", sa.BigInteger, nullable=False),  # what it counts for in `usage`
    sa.Column("bytes", sa.BigInteger, nullable=False),
)

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", KEY, primary_key=True),
    sa.Column("owner", KEY, nullable=False),
    sa.Column("name", sa.Text, nullable=False),  # of its file
    sa.Column("bytes", sa.BigInteger, nullable=False),  # that were announced
    sa.Column("received", sa.BigInteger, nullable=False),  # that are on the disk for certain
    sa.Column("sha256", sa.Text),  # as announced
    sa.Column("digest", sa.Text),  # as found; NULL until it is whole
    sa.Column("job", sa.Integer),  # that was last asked to read it
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("used_at", sa.Double, nullable=False, index=True),  # when something was last done with it
    sa.Index("uploads_by_owner", "owner", "id"),
)
