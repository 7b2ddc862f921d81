"""What terms are called, and what they cost: plan versions with their add-ons, contracts.

The id goes with every usage event, so that it can be priced years later. Knows no account.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from billing import rating
from billing.models import AddOn, Contract, PlanVersion
from gateway.models import CALLS

# What an id begins with; the primary key of the row that set the terms follows, and those of its
# add-ons: `version:7+3+5`.
OF_CONTRACT, OF_VERSION = "contract:", "version:"
# Of the 40 that the ledger keeps some are left for versions with longer ids.
MOST_ID_CHARACTERS = 35


def months_of(version: PlanVersion) -> int:
    return 12 if version.interval == PlanVersion.Interval.YEAR else 1


def id_of_contract(contract: Contract) -> str:
    return f"{OF_CONTRACT}{contract.pk}"


def id_of_version(version_id: int, add_ons: Iterable[AddOn]) -> str:
    ids = sorted(one.pk for one in add_ons)
    return OF_VERSION + "+".join(map(str, (version_id, *ids)))


def has_room_for(version: PlanVersion, add_ons: Iterable[AddOn]) -> bool:
    """Whether usage can carry the ids of so many add-ons, of a version published later too."""
    return len(id_of_version(version.pk, add_ons)) <= MOST_ID_CHARACTERS


def version_id_of(terms_id: str) -> int | None:
    """The plan version that usage with this id belongs to; None: to none."""
    if not terms_id.startswith(OF_VERSION):
        return None
    return int(terms_id.removeprefix(OF_VERSION).split("+")[0])


def price_of(terms_id: str) -> rating.Price | None:
    """The price that usage with this id is rated by; None where its contract was deleted."""
    if terms_id.startswith(OF_CONTRACT):
        contract = Contract.objects.filter(pk=terms_id.removeprefix(OF_CONTRACT)).first()
        return contract_price(contract) if contract else None
    if terms_id.startswith(OF_VERSION):
        version_id, *add_on_ids = map(int, terms_id.removeprefix(OF_VERSION).split("+"))
        version = PlanVersion.objects.filter(pk=version_id).first()
        add_ons = AddOn.objects.filter(pk__in=add_on_ids).select_related("meter")
        return version_price(version, add_ons) if version else None
    return None


def priced_as(terms_id: str) -> str:
    """The id with those of its add-ons alone that usage is priced by: what includes units."""
    if "+" not in terms_id:
        return terms_id
    version_id, *add_on_ids = map(int, terms_id.removeprefix(OF_VERSION).split("+"))
    including = AddOn.objects.filter(pk__in=add_on_ids, included_units__gt=0)
    return id_of_version(version_id, including)


def carries_over(terms_id: str) -> bool:
    """Whether what is used under these terms uses up what the next ones include.

    A plan that is changed and add-ons that are bought keep to the period; a contract has
    included units of its own.
    """
    return terms_id.startswith(OF_VERSION)


def in_turn(
    prices: Mapping[str, rating.Price | None],
) -> list[tuple[str, rating.Price | None]]:
    """The terms of one period, those that include fewer units first.

    Within a period what an account has only grows: what takes away waits for its end.
    """

    def included(its_id: str) -> tuple[int, str]:
        its_price = prices[its_id]
        return sum(meter.included_units for meter in its_price.meters) if its_price else 0, its_id

    return [(its_id, prices[its_id]) for its_id in sorted(prices, key=included)]


def contract_price(contract: Contract) -> rating.Price:
    calls = rating.MeterPrice(
        CALLS,
        contract.included_calls,
        "graduated",
        rating.parse_tiers(contract.tiers, "graduated"),
        rating.parse_special(contract.special_prices, "graduated"),
    )
    return rating.Price(contract.currency, contract.base_price_minor, (calls,))


def version_price(version: PlanVersion, add_ons: Iterable[AddOn]) -> rating.Price:
    further = further_units(add_ons)
    meters = tuple(
        rating.MeterPrice(
            meter.meter.name,
            meter.included_units + further[meter.meter.name],
            meter.tier_mode,
            rating.parse_tiers(meter.tiers, meter.tier_mode),
            rating.parse_special(meter.special_prices, meter.tier_mode),
        )
        for meter in version.meters.select_related("meter").order_by("meter")
    )
    return rating.Price(version.currency, version.base_price_minor, meters)


def further_units(add_ons: Iterable[AddOn]) -> Counter[str]:
    """What add-ons include, by meter."""
    further = Counter[str]()
    for one in add_ons:
        if one.meter:
            further[one.meter.name] += one.included_units
    return further
