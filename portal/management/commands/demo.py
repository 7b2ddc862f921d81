"""`manage.py demo`: what `make run` needs in the database before anybody can click.

Idempotent: the supervisor runs it at every start.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from gateway import catalogue, openapi
from gateway.addresses import EVERYWHERE
from gateway.models import Api
from keys import clock
from portal.demo import seed


class Command(BaseCommand):
    help = "Puts an API, the demo's plans, a staff login and a paying account in place."

    def add_arguments(self, parser: ArgumentParser) -> None:
        upstream = parser.add_mutually_exclusive_group(required=True)
        upstream.add_argument("--holidays", metavar="URL", help="where the built-in API listens")
        upstream.add_argument("--upstream", metavar="URL", help="the seller's own API")
        parser.add_argument("--openapi", metavar="FILE_OR_URL", help="its OpenAPI document")
        parser.add_argument("--api", metavar="SLUG", default="", help="its name in addresses")

    def handle(self, *_: Any, **options: Any) -> None:
        if not settings.DEMO:
            raise CommandError("This is not a demo (KEYSTILE_DEMO=1); it would seed test data.")
        password = os.environ.get("STAFF_PASSWORD")
        if not password:
            raise CommandError("STAFF_PASSWORD is not set; the demo's staff login needs one.")
        facts = seed.everything(
            settings.DATA_DIR,
            self.put_on_sale(options),
            staff_password=password,
            now=clock.now(),
        )
        call_command("publish", stdout=self.stdout)
        self.stdout.write(f"{facts['api']} is on sale; logins are in demo.json.")

    def put_on_sale(self, options: dict[str, Any]) -> Api:
        try:
            if options["holidays"]:
                secret = os.environ.get("DEMO_UPSTREAM_SECRET", "")
                return seed.holidays(options["holidays"], secret)
            document = self.document(options["openapi"]) if options["openapi"] else None
            return seed.sellers(options["upstream"], document, options["api"])
        except (openapi.InvalidDocument, catalogue.InvalidTerms) as invalid:
            raise CommandError(str(invalid)) from None

    def document(self, place: str) -> openapi.Document:
        if place.startswith(("http://", "https://")):
            return openapi.read(openapi.fetch(place, private=EVERYWHERE))
        try:
            return openapi.read(Path(place).read_bytes())
        except OSError as error:
            raise CommandError(f"{place} can't be read: {error.strerror}.") from None
