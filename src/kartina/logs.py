"""Logs: structlog on stderr, JSON lines, or lines for a person where stderr is a terminal."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import Processor

from kartina.settings import Settings


class _Stderr(io.TextIOBase):
    """stderr, except that a full disk behind it loses lines instead of stopping the service."""

    def write(self, text: str, /) -> int:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure(settings: Settings | None = None) -> None:
    """Log as the settings say (default: as they are where nobody has set them).

    What is bound by `structlog.contextvars`, such as the request's id, is in every line. Libraries' own logs are told
    from warnings on, unless the level is debug.
    """
    found = settings or Settings()
    level = logging.getLevelNamesMapping()[found.log_level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render = _rendering(found.log_format == "console" or (found.log_format == "auto" and sys.stderr.isatty()))
    handler = logging.StreamHandler(_Stderr())  # what libraries log through the standard library
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    others = level if level == logging.DEBUG else max(level, logging.WARNING)
    logging.basicConfig(level=others, handlers=[handler], force=True)
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _Stderr())),
        cache_logger_on_first_use=True,
    )


def _rendering(terminal: bool) -> list[Processor]:
    """How a line is written."""
    if terminal:
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
