"""What lasts: the database (SQLite, or PostgreSQL beyond one machine) and blobs by content hash."""
