"""The sandbox's test cards. The numbers are public test numbers; none is ever stored."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Card:
    """A number and what paying with it does.

    outcome: paid at once; declined at once; pending, then paid; pending, then declined
    """

    name: str
    number: str
    label: str
    outcome: Literal["paid", "declined", "later_paid", "later_declined"]

    @property
    def grouped(self) -> str:
        """As it is printed on a card: in groups of four."""
        return " ".join(self.number[i : i + 4] for i in range(0, len(self.number), 4))


CARDS = (
    Card("success", "4242424242424242", "Payment succeeds", "paid"),
    Card("decline", "4000000000000002", "Card is declined", "declined"),
    Card("delay", "4000000000000077", "Payment takes 20 seconds, then succeeds", "later_paid"),
    Card("late-decline", "4000000000000341", "Takes 20 seconds, then fails", "later_declined"),
)
DECLINE_REASON = "Your card was declined."


def of_number(number: str) -> Card | None:
    """The test card with this number, however it is grouped."""
    digits = number.replace(" ", "").replace("-", "")
    return next((card for card in CARDS if card.number == digits), None)


def of_name(name: str) -> Card | None:
    return next((card for card in CARDS if card.name == name), None)


def method(name: str) -> str:
    """How a card is spoken of, by its name: “Visa ending in 4242”; empty for none."""
    card = of_name(name)
    return f"Visa ending in {card.number[-4:]}" if card else ""
