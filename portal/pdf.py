"""Prints a paper as PDF: A4, text that can be searched and copied, no picture.

Latin, Greek, Cyrillic, Armenian and Georgian are printed in a font that is in the file; Chinese,
Japanese and Korean in the fonts that PDF readers bring for them. Other scripts show as boxes.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cache
from io import BytesIO
from itertools import groupby
from pathlib import Path
from unicodedata import name, normalize

from django.http import HttpResponse
from reportlab.lib.pagesizes import A4
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from billing.parties import Party
from portal.papers import Lines, Paper

FONTS = Path(__file__).parent / "fonts"
REGULAR, BOLD = "DejaVuSans", "DejaVuSans-Bold"
CHINESE, JAPANESE, KOREAN = "STSong-Light", "HeiseiKakuGo-W5", "HYGothic-Medium"
WIDTH, HEIGHT = A4
MARGIN = 56
RIGHT = WIDTH - MARGIN
AMOUNT_WIDTH = 110
BODY, SMALL, TITLE = 9.5, 8, 18
LEADING = 1.45
INK, MUTED, RULE = (0.08, 0.09, 0.12), (0.36, 0.39, 0.45), (0.85, 0.85, 0.83)


def render(paper: Paper) -> bytes:
    """The file. The same paper gives the same bytes."""
    _register()
    out = BytesIO()
    sheet = _Sheet(Canvas(out, pagesize=A4, invariant=1), paper.title)
    sheet.heading(paper.title)
    sheet.parties(paper.seller, paper.buyer)
    sheet.facts(paper.facts)
    sheet.amounts(paper.rows, paper.totals)
    for note in paper.notes:
        sheet.text(note, SMALL, MUTED)
    sheet.finish()
    return out.getvalue()


def answer(paper: Paper) -> HttpResponse:
    """The file, to be kept."""
    return HttpResponse(
        render(paper),
        content_type="application/pdf",
        headers={"Content-Disposition": f'attachment; filename="{paper.file_name}.pdf"'},
    )


@cache
def _register() -> dict[str, frozenset[int]]:
    """Registers the fonts once; which characters ours have."""
    has = {}
    for font in (REGULAR, BOLD):
        face = TTFont(font, str(FONTS / f"{font}.ttf"))
        pdfmetrics.registerFont(face)
        has[font] = frozenset(face.face.charToGlyph)
    for font in (CHINESE, JAPANESE, KOREAN):
        pdfmetrics.registerFont(UnicodeCIDFont(font))
    return has


class _Sheet:
    """Writes downwards, and begins a new page where one is full."""

    def __init__(self, canvas: Canvas, title: str):
        self._canvas, self._title = canvas, title
        self._page = 1
        self._y = HEIGHT - MARGIN
        canvas.setTitle(title)

    def heading(self, text: str) -> None:
        for line in _wrapped(text, RIGHT - MARGIN, BOLD, TITLE):
            self._down(TITLE)
            self._write(MARGIN, line, BOLD, TITLE)
        self._y -= 14

    def parties(self, seller: Party, buyer: Party) -> None:
        half = (RIGHT - MARGIN) / 2
        top = lowest = self._y
        for x, label, party in ((MARGIN, "From", seller), (MARGIN + half, "To", buyer)):
            self._y = top
            self._down(SMALL)
            self._write(x, label, REGULAR, SMALL, MUTED)
            for position, text in enumerate(_lines_of(party)):
                font = REGULAR if position else BOLD
                for line in _wrapped(text, half - 16, font, BODY):
                    self._down(BODY)
                    self._write(x, line, font, BODY)
            lowest = min(lowest, self._y)
        self._y = lowest - 18

    def facts(self, facts: Lines) -> None:
        for label, value in facts:
            for position, line in enumerate(_wrapped(value, RIGHT - MARGIN - 150, REGULAR, BODY)):
                self._down(BODY)
                if not position:
                    self._write(MARGIN, label, REGULAR, BODY, MUTED)
                self._write(MARGIN + 150, line, REGULAR, BODY)
        self._y -= 14

    def amounts(self, rows: Lines, totals: Lines) -> None:
        self._rule()
        for text, amount in rows:
            self._row(text, amount, REGULAR)
        self._y -= 4
        self._rule()
        for position, (text, amount) in enumerate(totals):
            self._row(text, amount, BOLD if position == len(totals) - 1 else REGULAR)
        self._y -= 18

    def text(self, text: str, size: float, ink: tuple[float, float, float]) -> None:
        for line in _wrapped(text, RIGHT - MARGIN, REGULAR, size):
            self._down(size)
            self._write(MARGIN, line, REGULAR, size, ink)

    def finish(self) -> None:
        self._foot()
        self._canvas.save()

    def _row(self, text: str, amount: str, font: str) -> None:
        for position, line in enumerate(_wrapped(text, RIGHT - MARGIN - AMOUNT_WIDTH, font, BODY)):
            self._down(BODY)
            self._write(MARGIN, line, font, BODY)
            if not position:
                self._write(RIGHT - _width(amount, font, BODY), amount, font, BODY)

    def _rule(self) -> None:
        self._down(4)
        self._canvas.setStrokeColorRGB(*RULE)
        self._canvas.line(MARGIN, self._y, RIGHT, self._y)

    def _down(self, size: float) -> None:
        self._y -= size * LEADING
        if self._y < MARGIN + 20:
            self._foot()
            self._canvas.showPage()
            self._page += 1
            self._y = HEIGHT - MARGIN - size * LEADING

    def _foot(self) -> None:
        y, self._y = self._y, MARGIN - 14
        self._write(MARGIN, f"{self._title}, page {self._page}", REGULAR, SMALL, MUTED)
        self._y = y

    def _write(
        self,
        x: float,
        text: str,
        font: str,
        size: float,
        ink: tuple[float, float, float] = INK,
    ) -> None:
        self._canvas.setFillColorRGB(*ink)
        for its_font, run in _runs(text, font):
            self._canvas.setFont(its_font, size)
            self._canvas.drawString(x, self._y, run)
            x += pdfmetrics.stringWidth(run, its_font, size)


def _lines_of(party: Party) -> list[str]:
    tax = f"Tax number {party['tax_id']}" if party.get("tax_id") else ""
    lines = [party.get("name", ""), *party.get("address", ()), tax, party.get("email", "")]
    return [str(line) for line in lines if line]


def _runs(text: str, font: str) -> list[tuple[str, str]]:
    """The text in pieces of one font each."""
    text = normalize("NFC", text)
    han = _han_font(text)
    has = _register()[font]
    found = groupby(text, key=lambda character: _font_of(character, font, has, han))
    return [(its_font, "".join(run)) for its_font, run in found]


def _font_of(character: str, font: str, has: frozenset[int], han: str) -> str:
    if ord(character) in has:
        return font
    called = name(character, "")
    if called.startswith("HANGUL"):
        return KOREAN
    if called.startswith(("HIRAGANA", "KATAKANA")):
        return JAPANESE
    return han if called.startswith(("CJK", "FULLWIDTH", "IDEOGRAPHIC")) else font


def _han_font(text: str) -> str:
    """Characters that the three languages share are printed like the rest of the text."""
    called = {name(character, "").split(" ")[0] for character in text}
    if called & {"HIRAGANA", "KATAKANA"}:
        return JAPANESE
    return KOREAN if "HANGUL" in called else CHINESE


def _width(text: str, font: str, size: float) -> float:
    widths = (pdfmetrics.stringWidth(run, its_font, size) for its_font, run in _runs(text, font))
    return float(sum(widths))


def _wrapped(text: str, width: float, font: str, size: float) -> list[str]:
    """Lines no wider than that; a word that is wider by itself is broken."""
    lines, line = [], ""
    for word in text.split():
        candidate = f"{line} {word}" if line else word
        if _width(candidate, font, size) <= width:
            line = candidate
            continue
        if line:
            lines.append(line)
        line = word
        while _width(line, font, size) > width:
            ends = range(1, len(line) + 1)
            fitting = bisect_right(ends, width, key=lambda end: _width(line[:end], font, size))
            fits = max(1, fitting)
            lines.append(line[:fits])
            line = line[fits:]
    return [*lines, line] if line else lines
