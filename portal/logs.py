"""How all processes log: lines for people in a demo, JSON elsewhere, and no page for an outage."""

from __future__ import annotations

import logging
from typing import Any

import structlog
from celery.beat import SchedulingError
from django.db import OperationalError


def configuration(*, json: bool, level: str) -> dict[str, Any]:
    """Sets structlog up, and says what Django is to do with the standard library's logging."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
    ]
    renderers: list[Any]
    if json:
        shared.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
        renderers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # The supervisor stamps each line. Plain tracebacks: rich ones print local variables,
        # secrets among them.
        plain = structlog.dev.plain_traceback
        renderers = [
            structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, exception_formatter=plain)
        ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {
            "short": _filter(_without_traceback_below_500),
            "no_outages": _filter(_without_traceback_of_outages),
        },
        "formatters": {
            "events": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": shared,
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *renderers,
                ],
            }
        },
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "events"}},
        "root": {"handlers": ["console"], "level": level},
        "loggers": {
            "celery": {"level": "WARNING"},
            "celery.app.trace": {"filters": ["no_outages"]},
            "celery.beat": {"level": "WARNING", "filters": ["no_outages"]},
            "django.request": {"filters": ["short"]},
            "uvicorn.error": {"level": "WARNING"},
        },
    }


def _filter(keeps: Any) -> dict[str, Any]:
    return {"()": "django.utils.log.CallbackFilter", "callback": keeps}


def _without_traceback_below_500(record: logging.LogRecord) -> bool:
    """A refusal is an answer, not a fault: one line says it."""
    if getattr(record, "status_code", 500) < 500:
        record.exc_info = None
    return True


def _without_traceback_of_outages(record: logging.LogRecord) -> bool:
    """A store that is away is one line for each task or tick that misses it, not a page."""
    cause = record.exc_info[1] if record.exc_info else None
    if isinstance(cause, (SchedulingError, OperationalError)):
        record.msg, record.args = record.getMessage().splitlines()[0], ()
        record.exc_info = None
    return True
