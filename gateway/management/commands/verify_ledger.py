"""`manage.py verify_ledger`: recomputes the ledger's closed hours and its rollup."""

import time
from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError

from gateway import audit, chain

SECONDS_BETWEEN_WORDS = 5


class Command(BaseCommand):
    help = "Says which closed hours of the ledger are not as they were closed; 1 if any isn't."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--account", type=UUID, help="Only this account's, by its id.")
        parser.add_argument(
            "--since", type=_moment, help="Only from this hour on, UTC: 2026-11-01 or 2026-11-01T09"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        account: UUID | None = options["account"]
        since: datetime = options["since"] or audit.EVERYTHING
        run = audit.Audit(since, self._tell)
        self._run, self._told_at = run, time.monotonic()
        faults = 0
        for account_id in audit.accounts() if account is None else [account]:
            for fault in run.faults(account_id):
                faults += 1
                hour = f" {fault.hour:%Y-%m-%dT%H}:00Z" if fault.hour else ""
                self.stdout.write(f"{fault.account_id}{hour}: {fault.what}")
        if run.retired:
            self.stdout.write(
                f"{run.retired:,} hours have entries older than the ledger keeps: their links and "
                "totals were checked, their entries can't be any more."
            )
        until = chain.closed_until()
        summary = (
            f"{run.entries:,} entries in {run.hours:,} closed hours of {run.accounts:,} accounts, "
            f"up to {until:%Y-%m-%dT%H}:00Z"
            if until
            else "No hour is closed yet"
        )
        if faults:
            raise CommandError(f"{summary}: {faults:,} faults, named above.")
        self.stdout.write(f"{summary}: all right.")

    def _tell(self) -> None:
        if time.monotonic() - self._told_at > SECONDS_BETWEEN_WORDS:
            self._told_at = time.monotonic()
            self.stderr.write(
                f"… {self._run.entries:,} entries in {self._run.hours:,} hours so far"
            )


def _moment(text: str) -> datetime:
    return chain.floor(datetime.fromisoformat(text).replace(tzinfo=UTC))
