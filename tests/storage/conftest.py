from tests.databases import database, postgres, url  # noqa: F401  fixtures
