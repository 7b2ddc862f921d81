"""Django's file backend, one file per mail, as old as the demo's clock says (keys.clock).

Django names a file by the second and the backend's address in memory, which the next backend
may have as well: two mails would share a file, and the mailbox would show one of them.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

from django.core.mail.backends import filebased

from keys import clock
from keys.identifiers import new_id


class EmailBackend(filebased.EmailBackend):
    _fname: str | None

    def _get_filename(self) -> str:
        if self._fname is None:
            name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{new_id().int}.log"
            self._fname = str(Path(self.file_path) / name)
        return self._fname

    def close(self) -> None:
        super().close()
        if self._fname is not None:
            sent_at = clock.now().timestamp()
            os.utime(self._fname, (sent_at, sent_at))
