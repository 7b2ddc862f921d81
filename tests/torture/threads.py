"""What goes on beside the calls of a torture, until it is over."""

from __future__ import annotations

import threading
from typing import Self


class Companion(threading.Thread):
    """A thread for a `with` block. `run` goes on until `self.over` is set, and then ends."""

    def __init__(self, name: str):
        super().__init__(name=name)
        self.over = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()
