"""Charts: the geometry tells the truth about the numbers, at any size of them."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from portal.charts import (
    MAX_GRID_LINES,
    MAX_LABELS,
    PLOT_BASE,
    PLOT_TOP,
    Column,
    axis_ticks,
    draw,
    short_number,
)

START = datetime(2026, 11, 1, tzinfo=UTC)


def columns(*values):
    return [
        Column(START + timedelta(days=day), total, failed)
        for day, (total, failed) in enumerate(values)
    ]


@given(st.integers(0, 10**12))
def test_the_axis_reaches_every_value_in_a_few_round_steps(highest):
    ticks = axis_ticks(highest)

    steps = {after - before for before, after in pairwise(ticks)}
    assert ticks[0] == 0
    assert ticks[-1] >= max(highest, 1)
    assert len(ticks) <= MAX_GRID_LINES + 1
    assert len(steps) == 1
    assert str(steps.pop()).rstrip("0") in ("1", "2", "5")


def test_an_account_without_calls_has_an_axis_and_no_bars_to_see():
    chart = draw(columns((0, 0), (0, 0)), moment_format="j F", label_format="j M")

    assert [line.label for line in chart.grid] == ["0", "1"]
    assert [bar.good_height for bar in chart.bars] == ["0.0", "0.0"]


def test_failed_calls_stand_on_top_of_the_good_ones_and_are_part_of_the_total():
    chart = draw(columns((100, 25), (50, 0)), moment_format="j F", label_format="j M")

    tall, half = chart.bars
    full_height = PLOT_BASE - PLOT_TOP
    assert float(tall.good_height) + float(tall.failed_height) == full_height
    assert float(tall.failed_height) == full_height / 4
    assert float(tall.failed_y) + float(tall.failed_height) == float(tall.good_y)
    assert float(half.good_height) == full_height / 2


def test_one_failure_among_a_million_calls_can_be_seen():
    chart = draw(columns((1_000_000, 1)), moment_format="j F", label_format="j M")

    assert float(chart.bars[0].failed_height) >= 1


@given(st.integers(1, 200))
def test_bars_stay_inside_their_slots_and_labels_don_t_crowd(count):
    chart = draw(columns(*[(5, 1)] * count), moment_format="j F", label_format="j M")

    for bar in chart.bars:
        left, width = float(bar.x.rstrip("%")), float(bar.width.rstrip("%"))
        slot, slot_width = float(bar.slot_x.rstrip("%")), float(bar.slot_width.rstrip("%"))
        assert slot < left < left + width < slot + slot_width <= 100.01
    assert 1 <= len([bar for bar in chart.bars if bar.label]) <= MAX_LABELS


def test_a_bar_says_its_day_and_figures_in_words():
    chart = draw(columns((2581, 1), (1, 0)), moment_format="j F", label_format="j M")

    assert chart.bars[0].reading == "1 November: 2,581 calls, 1 error"
    assert chart.bars[1].reading == "2 November: 1 call, 0 errors"


def test_axis_labels_are_short():
    assert [short_number(n) for n in (0, 999, 1000, 1500, 2_000_000)] == [
        "0",
        "999",
        "1k",
        "1.5k",
        "2M",
    ]
