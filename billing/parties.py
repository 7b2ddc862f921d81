"""Who sells and who is billed, as it is written on what we issue and frozen there."""

from __future__ import annotations

import re
from typing import Any

from django.conf import settings

from billing.accounts import Account
from billing.models import BuyerDetails

Party = dict[str, Any]  # {"name", "address": [lines], "tax_id"}


def seller() -> Party:
    """From the settings; its address' lines are divided there by line breaks or semicolons."""
    return {
        "name": settings.SELLER_NAME,
        "address": lines_of(settings.SELLER_ADDRESS),
        "tax_id": settings.SELLER_TAX_ID,
    }


def buyer(account: Account) -> Party:
    """As the account says, with its own name and mail address where it said nothing."""
    details = BuyerDetails.objects.filter(account_id=account.pk).first() or BuyerDetails()
    return {
        "name": details.name or account.name,
        "address": [*lines_of(details.address), *filter(None, [details.country])],
        "tax_id": details.tax_id,
        "email": account.billing_email,
    }


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in re.split(r"[\r\n;]+", text) if line.strip()]
