"""Logs: structlog as JSON lines on stderr, for the service and its worker."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str = "warning") -> None:
    """Log from `level` on (debug, info, warning, error) as one JSON object a line, on stderr."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
