"""Alembic's migrations, run when a database is opened. A new one goes into versions/, and raises database.HEAD."""
