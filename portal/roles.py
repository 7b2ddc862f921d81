"""What each role of an account may do. The one place that says so."""

from enum import StrEnum

from portal.models import Membership

Role = Membership.Role


class Capability(StrEnum):
    """A kind of act, with the roles that may do it in `GRANTED`."""

    READ = "read"
    KEYS = "keys"
    BILLING = "billing"


GRANTED: dict[Capability, frozenset[Role]] = {
    Capability.READ: frozenset(Role),
    Capability.KEYS: frozenset({Role.OWNER, Role.ADMIN, Role.DEVELOPER}),
    Capability.BILLING: frozenset({Role.OWNER, Role.ADMIN, Role.BILLING}),
}
REFUSAL = {
    Capability.READ: "You are not a member of this account.",
    Capability.KEYS: (
        "Keys are claimed, made, rotated and revoked by an owner, an admin or a developer "
        "of the account. Ask one of them, or ask the owner for another role."
    ),
    Capability.BILLING: (
        "Plans are bought, changed and cancelled, and invoices seen, by an owner, an admin or a "
        "billing member of the account. Ask one of them, or ask the owner for another role."
    ),
}


def may(role: str, capability: Capability) -> bool:
    """Whether a member with this role may do acts of this kind."""
    return role in GRANTED[capability]
