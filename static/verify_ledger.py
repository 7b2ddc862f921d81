#!/usr/bin/env python3
"""Checks exports of usage (JSON lines) against the digests of their hours, offline.

    python3 verify_ledger.py usage.jsonl
    python3 verify_ledger.py october.jsonl november.jsonl --invoice invoice.json

An export has a line for each entry of the ledger, in the order in which they were recorded, and
after those of a closed hour a line for the hour. An hour swears to

  - its entries: `entries_digest` is the SHA-256 of their lines, ends of lines included;
  - what they come to: `totals`;
  - the account's hour before it: `previous` is that one's digest;

and `digest` is the SHA-256 of all this, as JSON with sorted keys and without spaces. An entry
that was changed, left out, put in or moved makes its hour wrong; an hour that was changed or
left out makes the next one wrong.

A file that was made up as a whole, digests included, agrees with itself. So keep what you
downloaded earlier, and compare the digests on your invoices with --invoice.

Prints what is wrong and where. Exit code: 0 all right, 1 something is wrong, 2 a file can't be
read. Needs Python 3.9 or newer and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

ENTRY = "com.keystile.ledger.entry"
HOUR = "com.keystile.ledger.hour"
SWORN = ("account", "entries", "entries_digest", "hour", "previous", "totals")
LONGEST_DIMENSIONS = 800  # bytes
UNREADABLE = (AttributeError, KeyError, RecursionError, TypeError, ValueError)

Names = dict[str, list[str]]
"""By meter, the dimensions that its usage is summed by."""
Hours = dict[tuple[str, str], dict[str, Any]]
"""What a closed hour says, by account and hour."""


class Account:
    """What was read of one account so far."""

    def __init__(self) -> None:
        self.previous: set[str] = set()
        """Digest of the closed hour before: as it is given, and as it should be."""
        self.last_closed = ""
        self.start("")

    def start(self, hour: str) -> None:
        """Forgets the entries of an hour, and waits for those of another."""
        self.hour = hour
        self.digest = hashlib.sha256()
        self.entries = 0
        self.sums: dict[tuple[str, ...], list[int]] = {}


class Check:
    """One run over all files. Faults are printed as they are found, and counted."""

    def __init__(self, hours: Hours) -> None:
        self.known = hours
        self.accounts: dict[str, Account] = {}
        self.entries = self.hours = self.faults = 0

    def fault(self, where: str, what: str) -> None:
        self.faults += 1
        print(f"{where}: {what}")

    def read(self, path: str) -> None:
        for number, line in lines(path):
            try:
                event = json.loads(line)
                account = self.accounts.setdefault(event["subject"], Account())
                kind, data = event["type"], event["data"]
                if kind == ENTRY:
                    self.entry(account, line, event, data)
                elif kind == HOUR:
                    self.hour(account, line, data)
                else:
                    self.fault(f"{path}, line {number}", f"the type {kind!r} is unknown")
            except UNREADABLE:
                self.fault(f"{path}, line {number}", "it can't be read: it is damaged")

    def entry(self, account: Account, line: bytes, event: Any, data: Any) -> None:
        hour = data["recorded_at"][:13] + ":00:00Z"
        if hour > account.hour:
            self.leave(account)
            account.start(hour)
        account.digest.update(line)
        account.entries += 1
        self.entries += 1
        if data["mode"] != "live":
            return
        names = names_of(self.known.get((event["subject"], hour), {}))
        used = dict(data["units"])
        if data["outcome"] != "reported":
            used.setdefault("calls", 0)
        for meter, units in used.items():
            dimensions = split(data["metadata"], names.get(meter, ()))
            group = (data["period"], data["terms"], data["api"], data["operation"])
            sums = account.sums.setdefault((*group, meter, dimensions), [0, 0, 0])
            for place, value in enumerate((1, units, units if data["billable"] else 0)):
                sums[place] += value

    def hour(self, account: Account, line: bytes, data: Any) -> None:
        hour = data["hour"]
        where = f"hour {hour}"
        if account.hour != hour:
            self.leave(account)
            account.start(hour)
        self.hours += 1
        if hour <= account.last_closed:
            self.fault(where, f"it comes after {account.last_closed}: the hours are not in order")
        should_be = sha256(canonical({name: data[name] for name in SWORN}))
        if data["digest"] != should_be:
            self.fault(where, "its own digest is not that of what it says")
        elif line != form(data):
            self.fault(where, "its line was changed")
        if data["entries"] != account.entries:
            self.fault(where, f"it has {account.entries} entries and says {data['entries']}")
        elif data["entries_digest"] != account.digest.hexdigest():
            self.fault(where, "an entry was changed, moved, or exchanged for another")
        elif told(data["totals"]) != {key: tuple(sums) for key, sums in account.sums.items()}:
            self.fault(where, "its totals are not those of its entries")
        if account.previous and data["previous"] not in account.previous:
            self.fault(where, "it doesn't follow the hour before it: one is missing or was changed")
        account.previous = {data["digest"], should_be}
        account.last_closed = hour
        account.start("")

    def leave(self, account: Account) -> None:
        """Entries are over, and no line has closed their hour."""
        if account.entries:
            self.fault(
                f"hour {account.hour}", f"it has {account.entries} entries and no line closes it"
            )

    def invoice(self, path: str) -> None:
        """Compares an invoice's lines with the hours that they name."""
        with open(path, "rb") as file:
            invoice = json.load(file)
        by_hour: dict[str, list[dict[str, Any]]] = {}
        for (_, hour), data in self.known.items():
            by_hour.setdefault(hour, []).append(data)
        claimed: set[tuple[str, int]] = set()
        for line in invoice["lines"]:
            name = line.get("text") or line.get("meter") or "a line"
            hours = line.get("hours") or []
            if not hours:
                if line.get("meter") and line.get("units"):
                    self.fault(f"invoice, {name}", f"it bills {line['units']} units of no hour")
                continue  # a base price has none
            for part in hours:
                self.part(f"invoice, {name}, hour {part['hour']}", line, part, by_hour, claimed)
            for what in ("units", "events"):
                together = sum(part.get(what, 0) for part in hours)
                if line.get(what, together) != together:
                    self.fault(
                        f"invoice, {name}", f"it says {line[what]} {what}, its hours {together}"
                    )
            digests = "".join(f"{part['hour']} {part['digest']}\n" for part in hours)
            if line.get("root") not in (None, sha256(digests)):
                self.fault(f"invoice, {name}", "its root is not that of its hours")
            units = sum(part["units"] for part in hours)
            print(f"{name}: {units:,} units in {len(hours):,} hours")
        currency = invoice.get("currency")
        amounts = [line for line in invoice["lines"] if line.get("currency") == currency]
        total = sum(line.get("amount_minor", 0) for line in amounts)
        if invoice.get("total_minor", total) != total:
            self.fault("invoice", f"its total is {invoice['total_minor']}, its lines make {total}")

    def part(
        self, where: str, line: Any, part: Any, by_hour: Any, claimed: set[tuple[str, int]]
    ) -> None:
        """What one hour has of a line: all that the line is about, and of no other line."""
        found = [data for data in by_hour.get(part["hour"], ()) if data["digest"] == part["digest"]]
        if part["hour"] not in by_hour:
            self.fault(where, "the files don't have it")
        elif not found:
            self.fault(where, "its digest is another in the files")
        else:
            totals = found[0]["totals"]
            places = {(part["hour"], at) for at in range(len(totals)) if is_of(totals[at], line)}
            if places & claimed:
                self.fault(where, "its units are billed twice")
            claimed |= places
            of_line = [totals[at] for _, at in places]
            billable = sum(total["billable"] for total in of_line)
            events = sum(total["events"] for total in of_line)
            if part["units"] != billable or part.get("events", events) != events:
                self.fault(
                    where,
                    f"it bills {part['units']} units of {part.get('events', events)} events, "
                    f"and the hour has {billable} of {events}",
                )


def is_of(total: Any, line: Any) -> bool:
    """Whether usage is a line's, by what the line says of itself: nothing means any."""
    for name in ("period", "meter"):
        if line.get(name) not in (None, "", total[name]):
            return False
    if total["terms"] not in (line.get("terms") or [total["terms"]]):
        return False
    others = line.get("except") or ()
    return matches(total, line) and not any(matches(total, other) for other in others)


def matches(total: Any, wanted: Any) -> bool:
    for name in ("api", "operation"):
        if wanted.get(name) not in (None, "", total[name]):
            return False
    dimensions = wanted.get("dimensions") or {}
    return all(total["dimensions"].get(name) == value for name, value in dimensions.items())


def form(data: Any) -> bytes:
    """The only line that says this of an hour."""
    end = datetime.strptime(data["hour"], "%Y-%m-%dT%H:%M:%SZ") + timedelta(hours=1)
    event = {
        "specversion": "1.0",
        "type": HOUR,
        "source": "/ledger",
        "id": data["digest"],
        "time": f"{end:%Y-%m-%dT%H:%M:%SZ}",
        "subject": data["account"],
        "datacontenttype": "application/json",
        "data": {name: data[name] for name in (*SWORN, "digest")},
    }
    return canonical(event).encode() + b"\n"


def lines(path: str) -> Iterator[tuple[int, bytes]]:
    with open(path, "rb") as file:
        yield from enumerate(file, 1)


def closed_hours(paths: list[str]) -> Hours:
    """What the closed hours say; a first look, for what totals are split by."""
    found: Hours = {}
    for path in paths:
        for _, line in lines(path):
            if HOUR.encode() not in line:
                continue
            try:
                data = json.loads(line)["data"]
                told(data["totals"]), names_of(data)
                if data["digest"] and data["hour"]:
                    found[data["account"], data["hour"]] = data
            except UNREADABLE:
                continue  # the second look says so
    return found


def names_of(data: Any) -> Names:
    return {total["meter"]: total["split_by"] for total in data.get("totals", ())}


def split(metadata: Any, names: Any) -> str:
    """What metadata says of a meter's dimensions; too long to be any, it counts as nothing."""
    text = canonical({name: metadata[name] for name in names if name in metadata})
    return text if len(text.encode()) <= LONGEST_DIMENSIONS else "{}"


def told(totals: list[Any]) -> dict[tuple[str, ...], tuple[int, ...]]:
    """An hour's totals by what they are summed by."""
    found = {}
    for total in totals:
        group = tuple(total[name] for name in ("period", "terms", "api", "operation", "meter"))
        sums = tuple(total[name] for name in ("events", "units", "billable"))
        found[(*group, canonical(total["dimensions"]))] = sums
    return found


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks exports of usage, offline.")
    parser.add_argument("files", nargs="+", metavar="usage.jsonl", help="oldest first")
    parser.add_argument("--invoice", metavar="invoice.json", help="compare an invoice too")
    options = parser.parse_args()
    try:
        check = Check(closed_hours(options.files))
        for path in options.files:
            check.read(path)
        if options.invoice:
            check.invoice(options.invoice)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except UNREADABLE as error:
        print(f"{options.invoice}: this is no invoice: {error!r}", file=sys.stderr)
        return 2
    waiting = sum(account.entries for account in check.accounts.values())
    if waiting:
        print(f"{waiting:,} entries at the end are of hours that are not closed: not checked")
    said = f"{check.entries:,} events in {check.hours:,} hours"
    if check.faults:
        print(f"{said}: {check.faults:,} faults, named above")
        return 1
    print(f"{said}: all right" if check.hours else f"{said}: nothing was checked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
