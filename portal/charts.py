"""Bars over time, drawn on the server as SVG: geometry in, attributes out.

Horizontal positions are percentages and vertical ones pixels, so that one drawing fits
every width without scaling its text. Reads no database and knows no account.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count

from django.utils.dateformat import format as date_format

PLOT_TOP, PLOT_BASE, HEIGHT = 26, 200, 226
MAX_LABELS = 7
MAX_GRID_LINES = 5


@dataclass(frozen=True)
class Column:
    """What one bar shows: `failed` of `total` stand in red on top."""

    start: datetime
    total: int
    failed: int


@dataclass(frozen=True)
class GridLine:
    label: str
    y: str


@dataclass(frozen=True)
class Bar:
    """One column, as SVG attributes. `label` is the axis text beneath it, often empty."""

    column: Column
    moment: str
    label: str
    slot_x: str
    slot_width: str
    x: str
    width: str
    middle: str
    good_y: str
    good_height: str
    failed_y: str
    failed_height: str

    @property
    def reading(self) -> str:
        """`1 November: 2,581 calls, 49 errors`."""
        total, failed = self.column.total, self.column.failed
        return (
            f"{self.moment}: {total:,} call{'' if total == 1 else 's'}, "
            f"{failed:,} error{'' if failed == 1 else 's'}"
        )


@dataclass(frozen=True)
class Chart:
    """A drawing for the template `dashboard/_chart.html`."""

    grid: list[GridLine]
    bars: list[Bar]
    height: int = HEIGHT
    base: int = PLOT_BASE


def draw(columns: Sequence[Column], *, moment_format: str, label_format: str) -> Chart:
    """Lays out one bar per column, oldest first, over an axis that starts at zero.

    The formats are those of Django's `date` filter: `moment_format` names a bar in full,
    `label_format` is the short text under the last bar and every nth before it, at most
    `MAX_LABELS` of them.
    """
    ticks = axis_ticks(max((column.total for column in columns), default=0))
    pixels_per_unit = (PLOT_BASE - PLOT_TOP) / ticks[-1]
    slot = 100 / max(len(columns), 1)
    inset = slot * (0.14 if len(columns) > MAX_LABELS else 0.26)
    label_every = -(-len(columns) // MAX_LABELS)

    bars = []
    for index, column in enumerate(columns):
        height = _visible(column.total * pixels_per_unit)
        labelled = (len(columns) - 1 - index) % label_every == 0
        failed = min(_visible(column.failed * pixels_per_unit), height)
        bars.append(
            Bar(
                column=column,
                moment=date_format(column.start, moment_format),
                label=date_format(column.start, label_format) if labelled else "",
                slot_x=_percent(index * slot),
                slot_width=_percent(slot),
                x=_percent(index * slot + inset),
                width=_percent(slot - 2 * inset),
                middle=_percent((index + 0.5) * slot),
                good_y=_pixels(PLOT_BASE - height + failed),
                good_height=_pixels(height - failed),
                failed_y=_pixels(PLOT_BASE - height),
                failed_height=_pixels(failed),
            )
        )
    grid = [
        GridLine(label=short_number(tick), y=_pixels(PLOT_BASE - tick * pixels_per_unit))
        for tick in ticks
    ]
    return Chart(grid=grid, bars=bars)


def axis_ticks(highest: int) -> list[int]:
    """Whole numbers from 0 to at least `highest`, evenly spaced by 1, 2 or 5 times 10^n."""
    steps = (factor * 10**power for power in count() for factor in (1, 2, 5))
    step = next(step for step in steps if highest <= step * MAX_GRID_LINES)
    lines = max(-(-highest // step), 1)
    return [step * line for line in range(lines + 1)]


def short_number(value: int) -> str:
    """1500 as `1.5k`, 2000000 as `2M`: for axes, where the exact figure stands elsewhere."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.10g}{letter}"
    return str(value)


def _visible(pixels: float) -> float:
    """A single call among thousands still shows: a hairline at least."""
    return max(pixels, 1.5) if pixels else 0.0


def _percent(value: float) -> str:
    return f"{value:.3f}%"


def _pixels(value: float) -> str:
    return f"{value:.1f}"
