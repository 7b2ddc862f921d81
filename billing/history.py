"""What happened to accounts, in order: the rows that mails and analytics are made from.

Writes only; `billing.metrics` reads. A row stands in the transaction of its cause.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

import structlog

from billing import terms
from billing.models import BillingEvent, Subscription

log = structlog.get_logger(__name__)


def record(
    kind: BillingEvent.Kind,
    account_id: UUID,
    now: datetime,
    *,
    subscription: Subscription | None = None,
    **data: Any,
) -> BillingEvent:
    """Writes what happened, with the account's monthly recurring revenue after it.

    Call it last, when the rows say how things stand now. `data["plan"]` is the name of the
    plan that the account has after it or, where nothing is left, of the one that ended.
    """
    has = terms.standing(account_id, now)
    ended_plan = subscription.version.plan.name if subscription else ""
    event = BillingEvent.objects.create(
        account_id=account_id,
        subscription=subscription,
        kind=kind,
        data={"plan": has.plan_name or ended_plan, **data},
        mrr_minor=has.monthly_minor,
        currency=has.currency,
        at=now,
    )
    log.info(f"subscription.{kind}", account=str(account_id), plan=event.data["plan"])
    return event
