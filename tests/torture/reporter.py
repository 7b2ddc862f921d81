"""The seller's backend: reports jobs that its customers ran, and each until it was told "kept".

A report whose answer was lost is sent again, with the same id. So are some that were answered.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
from typing import Any
from urllib.parse import urlsplit

from tests.torture.threads import Companion

METER = "rows"
MOST_REPORTS = 20
MOST_SECONDS_BETWEEN = 0.4
SECONDS_BEFORE_AGAIN = 0.2


class Reporter(Companion):
    """Reports until it is told to stop, and then until the last ones are kept.

    kept:    units by account and the report's id
    strange: answers that are neither "kept" nor "not now"
    """

    def __init__(self, site: str, token: str, accounts: list[str], dice: random.Random):
        super().__init__("reporter")
        self.kept: dict[tuple[str, str], int] = {}
        self.sent = 0
        self.strange: list[str] = []
        self._address = urlsplit(site)
        self._token = token
        self._accounts = accounts
        self._dice = dice

    def run(self) -> None:
        number = 0
        while not self.over.wait(self._dice.uniform(0, MOST_SECONDS_BETWEEN)):
            reports = []
            for _ in range(self._dice.randint(1, MOST_REPORTS)):
                number += 1
                account, units = self._dice.choice(self._accounts), self._dice.randint(1, 9)
                reports.append({"id": f"job-{number}", "account": account, "units": {METER: units}})
            for _ in range(self._dice.choice((1, 1, 1, 2))):
                while not self._is_kept(reports) and not self.strange:
                    threading.Event().wait(SECONDS_BEFORE_AGAIN)
            self.kept |= {(each["account"], each["id"]): each["units"][METER] for each in reports}

    def _is_kept(self, reports: list[dict[str, Any]]) -> bool:
        self.sent += 1
        assert self._address.hostname is not None
        connection = http.client.HTTPConnection(
            self._address.hostname, self._address.port, timeout=20
        )
        fields = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        body = json.dumps({"events": reports})
        try:
            connection.request("POST", "/api/v1/events", body, fields)
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if answer.status == 200:
            told = json.loads(said)
            if told["errors"] or told["accepted"] + told["duplicates"] != len(reports):
                self.strange.append(f"200 {said[:200]!r}")
            return True
        if answer.status != 429 and answer.status < 500:
            self.strange.append(f"{answer.status} {said[:200]!r}")
        return False
