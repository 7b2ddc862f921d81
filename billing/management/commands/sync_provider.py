"""`manage.py sync_provider [--yes] [provider]`: prices and meters at a provider, from what is on
sale here.

Shows first what it would make, and changes nothing else there: what exists is left as it is, and
what is no longer on sale stays for whoever has it.
"""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from billing import catalogue, money, providers
from billing.providers import Offer, ProviderUnavailable, metering
from gateway.models import Meter


class Command(BaseCommand):
    help = "Makes the prices and meters that a provider lacks for what is on sale."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("provider", nargs="?", default=settings.PAYMENT_PROVIDER)
        parser.add_argument("--yes", action="store_true", help="make them without asking")

    def handle(self, *_: Any, provider: str, yes: bool, **__: Any) -> None:
        if provider not in settings.PROVIDERS:
            raise CommandError(f"{provider!r} is none of: {', '.join(settings.PROVIDERS)}.")
        try:
            self._sync(provider, yes=yes)
        except ProviderUnavailable as error:
            raise CommandError(str(error)) from error

    def _sync(self, name: str, *, yes: bool) -> None:
        provider, meters = providers.get(name), metering.get(name)
        offers = provider.unlisted(catalogue.offers_on_sale())
        labels = {metering.event_name(one.name): one.label for one in Meter.objects.all()}
        unmetered = meters.unmetered(list(labels))
        if not offers and not unmetered:
            self.stdout.write(f"Nothing is missing at {name}.")
            return
        self._show(offers, unmetered)
        if not yes and input(f"Make {_count(offers, unmetered)} at {name}? [y/N] ") != "y":
            self.stdout.write("Nothing has been changed.")
            return
        for offer in offers:
            provider.list_offer(offer)
        for event_name in unmetered:
            meters.make_meter(event_name, labels[event_name])
        self.stdout.write(f"Made {_count(offers, unmetered)} at {name}.")

    def _show(self, offers: list[Offer], unmetered: list[str]) -> None:
        rows = [
            (
                offer.item.key,
                offer.item.description,
                f"{money.text(offer.item.amount_minor, offer.currency)} a {offer.interval}",
            )
            for offer in offers
        ]
        rows += [("meter", event_name, "sum by customer") for event_name in unmetered]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for row in rows:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.stdout.write("  ".join(cells).rstrip())


def _count(offers: list[Offer], unmetered: list[str]) -> str:
    prices = f"{len(offers)} price{'' if len(offers) == 1 else 's'}"
    return f"{prices} and {len(unmetered)} meter{'' if len(unmetered) == 1 else 's'}"
