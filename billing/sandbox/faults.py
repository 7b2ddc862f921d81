"""What goes wrong between the sandbox and us, as staff wish: with its answers and its webhooks.

Stands for the internet and for a provider's bad days. Changes nothing of what the sandbox does.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from billing.providers import ProviderUnavailable
from billing.sandbox.models import SandboxFaults

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


def now_set() -> SandboxFaults:
    """What staff have set; nothing goes wrong where they never did."""
    return SandboxFaults.objects.filter(pk=1).first() or SandboxFaults()


def strikes(percent: int) -> bool:
    """True so many times in a hundred."""
    return secrets.randbelow(100) < percent


def may_fail(ask: Callable[Asked, Answer]) -> Callable[Asked, Answer]:
    """A request to the sandbox: refused and not done, or done and never answered, or as it is."""

    @wraps(ask)
    def asked(*given: Asked.args, **named: Asked.kwargs) -> Answer:
        faults = now_set()
        if strikes(faults.refused):
            raise ProviderUnavailable("The sandbox answered with an error, as staff wish.")
        answer = ask(*given, **named)
        if strikes(faults.unanswered):
            raise ProviderUnavailable("The sandbox did it and didn't answer, as staff wish.")
        return answer

    return asked
