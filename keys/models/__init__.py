"""What an account may do, API keys, service tokens, and the trail of what was done to them.

No row here holds a secret: a key or token is stored as its keyed digest, a claim link likewise.
"""

from keys.models.api_keys import ApiKey, ClaimLink, KeyEvent, KeyRequest, LeakPolicy
from keys.models.clock import ClockShift
from keys.models.entitlements import Entitlement
from keys.models.service_tokens import ServiceToken, ServiceTokenEvent

__all__ = [
    "ApiKey",
    "ClaimLink",
    "ClockShift",
    "Entitlement",
    "KeyEvent",
    "KeyRequest",
    "LeakPolicy",
    "ServiceToken",
    "ServiceTokenEvent",
]
