"""The table of a run: figures, and whether what they promise holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_FAULTS = 20
VERDICTS = {True: "ok", False: "WRONG", None: ""}


@dataclass
class Report:
    """Lines of name, figure and verdict; what is told besides; what is wrong, one by one."""

    lines: list[tuple[str, str, bool | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return all(holds is not False for _, _, holds in self.lines)

    def tell(self, name: str, figure: object) -> None:
        """A figure that promises nothing."""
        self.lines.append((name, _written(figure), None))

    def check(self, name: str, figure: object, holds: bool, faults: Iterable[object] = ()) -> None:
        """A promise. `faults` are what breaks it."""
        self.lines.append((name, _written(figure), holds))
        self.faults += [f"{name}: {fault}" for fault in faults]

    def none(self, name: str, faults: Iterable[object]) -> None:
        """A promise that there is nothing of the kind."""
        found = list(faults)
        self.check(name, len(found), not found, found)

    def same(self, name: str, told: Mapping[Any, int], expected: Mapping[Any, int]) -> None:
        """A promise that both say the same of everything, and 0 of what they don't name."""
        faults = [
            f"{key}: {told.get(key, 0):,}, not {expected.get(key, 0):,}"
            for key in sorted({*told, *expected})
            if told.get(key, 0) != expected.get(key, 0)
        ]
        self.check(name, sum(told.values()), not faults, faults)

    def text(self) -> str:
        table = [
            f"  {name:<50}{figure:>10}  {VERDICTS[holds]}".rstrip()
            for name, figure, holds in self.lines
        ]
        told = [f"  {line}" for line in [*self.notes, *self.faults[:MOST_FAULTS]]]
        return "\n".join([*table, *told, ""])


def _written(figure: object) -> str:
    if isinstance(figure, float):
        return f"{figure:.1f}"
    return f"{figure:,}"
