"""What must hold after the blows, line by line: every figure that is a promise is compared.

The others are there to be understood.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from gateway import audit
from keys import records
from tests.product import Product
from tests.torture.blows import DROP, KILL, Blow, Struck
from tests.torture.books import Books, Row, Run
from tests.torture.report import Report
from tests.torture.reporter import METER

DRAIN_SECONDS = 30
EXPLAINED_SECONDS = 15
"""An abandoned call was admitted no longer than this before, or after, the blow that it is of."""
UNBILLED = frozenset((408, 429, 499))
EVENT_OF_THE_LOG = re.compile(r"\d\d:\d\d:\d\d (\S+)")


def close(run: Run) -> Report:
    """Compares everything, when nobody calls and all is drained."""
    books, report = Books.read(run), Report()
    _check_answers(report, books, run)
    _check_calls(report, books, run)
    _check_abandoned(report, books, run)
    _check_prices(report, books, run)
    _check_reports(report, books, run)
    _check_sums(report, books, run)
    _check_ourselves(report, books, run)
    report.none("in quarantine", books.quarantined)
    report.none("tracebacks of the gateway", _tracebacks(run.product))
    report.check("seconds to drain", run.drained, run.drained <= DRAIN_SECONDS)
    return report


def _check_answers(report: Report, books: Books, run: Run) -> None:
    """Clients are told what is promised, and nothing else."""
    report.tell("calls made", len(books.seen))
    report.tell("answered 2xx at the client, whole", len(books.good))
    refused = sum(call["code"] == "limits_unavailable" for call in books.seen)
    report.tell("refused 503 limits_unavailable", refused)
    report.tell(
        "broken off, no answer or half of one", sum("broken" in call for call in books.seen)
    )
    report.tell("slowest answer, seconds", max(call["seconds"] for call in books.seen))
    refusals = {caller.name: caller.refusal for caller in run.callers}
    report.none(
        "answers that nobody promises",
        [
            call
            for call in books.seen
            if call["complete"] and not _is_promised(call, refusals[call["caller"]])
        ],
    )


def _is_promised(call: Row, refusal: str) -> bool:
    if call["code"]:
        return call["code"] in ("limits_unavailable", refusal)
    if call["method"] == "HEAD" and call["event"] is None:  # a refusal without a body
        return call["status"] in (402, 429, 503)
    return bool(call["status"] == call["expected"])


def _check_calls(report: Report, books: Books, run: Run) -> None:
    """Every call is there, once."""
    completed = sum(row["outcome"] == "completed" for row in books.rows)
    report.tell("rows in the ledger", len(books.rows))
    report.tell("  completed", completed)
    report.tell("  abandoned", len(books.abandoned))
    neither = len(books.rows) - completed - len(books.abandoned)
    report.check("  neither", neither, neither == 0)
    told = {call["event"] for call in books.seen if call["event"]}
    report.none("missing: answered 2xx", books.good - books.by_id.keys())
    report.none("missing: answered otherwise, or half", told - books.good - books.by_id.keys())
    report.none("missing: asked of the backend", run.reached - books.by_id.keys())
    rows = Counter(row["id"] for row in books.rows)
    answers = Counter(call["event"] for call in books.seen if call["event"])
    report.none(
        "duplicated", [event for each in (rows, answers) for event, n in each.items() if n > 1]
    )


def _check_abandoned(report: Report, books: Books, run: Run) -> None:
    """What is abandoned has a blow to blame, and is not billed."""
    report.none("abandoned and billed", [row for row in books.abandoned if row["billable"]])
    clients = len({call["client"] for call in books.seen})
    kills = sum(_kills_gateway(each.blow) for each in run.struck)
    unsaid = sum(row["id"] in books.good for row in books.abandoned)
    # The gateway died between the answer's last byte and its settlement.
    report.check("abandoned, though answered 2xx", unsaid, unsaid <= kills * clients)
    blamed = [_blow_of(row, run.struck) for row in books.abandoned]
    report.check("abandoned without a blow", blamed.count(None), None not in blamed)
    report.notes.append("abandoned, by the blow; all others left none")
    for number, each in enumerate(run.struck):
        if count := blamed.count(number):
            at = each.began - run.struck[0].began
            report.notes.append(f"{at:8.1f} s  {each.blow!s:<37}{count:>10,}")


def _blow_of(row: Row, struck: list[Struck]) -> int | None:
    """Which blow an abandoned call is of, as far as its time tells: the nearest.

    Status 0: its gateway died. 503: its gateway did not hear whether Redis had admitted it. What
    a dead gateway had written before is admitted when Redis comes to it, after the blow.
    """
    found = [
        (max(each.began - row["admitted"], row["admitted"] - each.ended, 0), number)
        for number, each in enumerate(struck)
        if (_kills_gateway(each.blow) if row["status"] == 0 else _parts_from_redis(each.blow))
    ]
    distance, number = min(found, default=(EXPLAINED_SECONDS + 1, 0))
    return number if distance <= EXPLAINED_SECONDS else None


def _kills_gateway(blow: Blow) -> bool:
    return (blow.what, blow.victim) == (KILL, "gateway")


def _parts_from_redis(blow: Blow) -> bool:
    return blow.what == DROP or blow.victim in ("valkey", "gateway")


def _check_prices(report: Report, books: Books, run: Run) -> None:
    """Every call costs what it should, by what its client saw; limits are used to the unit."""
    keys = {caller.name: caller.key for caller in run.callers}
    wrong = []
    for call in books.seen:
        row = books.by_id.get(call["event"])
        if row is not None and row["outcome"] == "completed":
            is_billed = row["mode"] == "live" and _is_charged(call["status"])
            expected = (keys[call["caller"]], call["status"], is_billed, call["units"])
            if expected != (row["key"], row["status"], row["billable"], row["units"]):
                wrong.append(row)
    report.none("recorded otherwise than answered", wrong)
    told = {call["event"] for call in books.seen}
    untold = sum(row["billable"] and row["id"] not in told for row in books.rows)
    lost = sum(call["event"] is None and not call["complete"] for call in books.seen)
    report.check("billed, and the client's connection broke", untold, untold <= lost)
    for caller in run.callers:
        if caller.limit is not None:
            units = sum(
                row["units"]["calls"]
                for row in books.rows
                if row["billable"] and row["key"] == caller.key
            )
            name = f"billed of a quota of {caller.limit:,}, {caller.name}"
            report.check(name, units, units == caller.limit)


def _check_reports(report: Report, books: Books, run: Run) -> None:
    """Every report that was answered with "kept" is there once, as it was sent."""
    report.tell("reports of the backend, kept", len(run.reporter.kept))
    report.tell("rows of reports", len(books.reported))
    found = {
        (row["account"], row["report"]): row["units"][METER]
        for row in books.known
        if row["billable"] and row["outcome"] == "reported" and row["booked"] == row["account"]
    }
    wrong = [
        each
        for each in {*found, *run.reporter.kept}
        if found.get(each) != run.reporter.kept.get(each)
    ]
    report.none("  missing, or otherwise than sent", wrong)
    twice = len(books.reported) - len(found)
    report.check("  duplicated", twice, twice == 0)
    report.none("  answers that nobody promises", run.reporter.strange)


def _check_sums(report: Report, books: Books, run: Run) -> None:
    """Rollup, counters and credits say what the rows say, name by name."""
    own = {caller.key for caller in run.callers if caller.is_own}
    billed: Counter[str] = Counter()
    others: Counter[str] = Counter()
    credited: Counter[int] = Counter()
    for row in books.rows:
        credited.update({int(grant): units for grant, units in (row["credits"] or {}).items()})
        if row["outcome"] != "completed" or not _is_charged(row["status"]):
            continue
        charged = billed if row["mode"] == "live" else others
        for meter, units in row["units"].items():
            charged[_used(row["account"], row, meter)] += units
            if meter == "calls" and row["key"] in own:
                others[_used(row["key"], row, meter)] += units
    for row in books.reported:
        billed[_used(row["account"], row, METER)] += row["units"][METER]
    by_meter: Counter[tuple[str, str]] = Counter()
    for row in [*books.rows, *books.reported]:
        if row["billable"] and row["outcome"] != "abandoned":
            by_meter.update({(row["account"], meter): n for meter, n in row["units"].items()})
    report.tell("billed units of completed and reported rows", sum(by_meter.values()))
    rolled = {(row["account"], row["meter"]): row["billed"] for row in books.rolled}
    report.same("  in the rollups", rolled, by_meter)
    report.same("  quota counters", _part(books.counters, billed), billed)
    used = {name: n for name, n in books.counters.items() if name.startswith("used:")}
    report.same("  units at the provider's double", run.provider, by_meter)
    report.none("  not shipped, or not as it should be", [*run.unshipped, *run.violations])
    rest = {name: n for name, n in used.items() if name not in billed}
    report.same("counters of test mode and of keys", rest, others)
    calls = sum(row["calls"] for row in books.rolled)
    report.check("calls in the rollups", calls, calls == len(books.rows))
    report.same("credits drawn", books.drawn, credited)
    drawn = {records.drawn_name(0, grant): units for grant, units in credited.items()}
    report.same("  credit counters", _part(books.counters, drawn), drawn)


def _check_ourselves(report: Report, books: Books, run: Run) -> None:
    """What Keystile itself says of its counters, and of its closed hours."""
    report.tell("comparisons of counters", len(run.comparisons))
    corrected = [each for check in run.comparisons for each in check.corrected]
    reports = [each for each in corrected if each.counter.endswith(f":{METER}")]
    report.tell("  corrected, of reports", len(reports))
    report.none("  corrected, of calls", [each for each in corrected if each not in reports])
    audited = audit.Audit(audit.EVERYTHING, lambda: None)
    faults = [fault for account in audit.accounts() for fault in audited.faults(account)]
    rows = len(books.rows) + len(books.reported)
    report.check("entries in closed hours", audited.entries, audited.entries >= rows)
    report.none("  faults in these hours", faults)


def _used(holder: str, row: Row, meter: str) -> str:
    return f"used:{records.tag(0)}:{holder}:{row['mode']}:{row['period_s']}:{meter}"


def _part(figures: Mapping[str, int], named: Mapping[str, int]) -> dict[str, int]:
    return {name: figures.get(name, 0) for name in named}


def _is_charged(status: int) -> bool:
    return status < 500 and status not in UNBILLED


def _tracebacks(product: Product) -> list[str]:
    """In what the supervisor wrote of its gateways: events, with their indented lines."""
    role, found = "", []
    for line in product.log.read_text(errors="replace").splitlines():
        if event := EVENT_OF_THE_LOG.match(line):
            role = event[1]
        if role == "gateway" and "Traceback" in line:
            found.append(line)
    return found
