"""What beat starts, and how often."""

from __future__ import annotations

from typing import Any

from celery.schedules import crontab

# Seconds between two ticks. One that found no worker by then is dropped: the next does its work.
_OFTEN = {
    "gateway.tasks.drain": 1,
    "gateway.tasks.fill_redis": 1,
    "gateway.tasks.sweep": 10,
    "gateway.tasks.republish_routes": 10,
    "gateway.tasks.close_hours": 60,
    "keys.tasks.republish": 10,
    "billing.tasks.process_waiting": 5,
    "billing.tasks.send_shipments": 10,
    "billing.tasks.buy_credits": 10,
    "billing.tasks.sync_open_checkouts": 15,
    "billing.tasks.sync_open_top_ups": 15,
    "billing.tasks.collect_money": 30,
    "billing.tasks.begin_months": 60,
    "billing.tasks.advance_subscriptions": 60,
    "billing.tasks.advance_price_changes": 300,
    "billing.tasks.close_invoices": 300,
    "billing.tasks.find_drift": 300,
    "portal.tasks.announce": 3,
}
# These wait for a worker, however long there is none.
_SELDOM = {
    "gateway.tasks.make_partitions": 3600,
    "gateway.tasks.drop_partitions": 3600,
    "gateway.tasks.check_counters": crontab(minute=7),
    "billing.tasks.reconcile_providers": crontab(hour="4", minute="10"),
    "portal.tasks.forget_key_requests": 3600,
}


def schedule(*, shipping_seconds: int, with_sandbox: bool) -> dict[str, dict[str, Any]]:
    """Celery's `beat_schedule`."""
    often = {**_OFTEN, "billing.tasks.collect_shipments": shipping_seconds}
    if with_sandbox:
        often["billing.tasks.sandbox_tick"] = 1
    return {
        **{
            task: {"task": task, "schedule": seconds, "options": {"expires": seconds}}
            for task, seconds in often.items()
        },
        **{task: {"task": task, "schedule": when} for task, when in _SELDOM.items()},
    }
