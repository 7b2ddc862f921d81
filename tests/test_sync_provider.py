"""`manage.py sync_provider`: shows first, makes what is missing, and does it once."""

import io

import pytest
from django.core.management import CommandError, call_command

from billing import catalogue
from tests.doubles.server import serving
from tests.doubles.stripe_payments import StripePayments
from tests.factories import make_plans


@pytest.fixture
def world(db, settings):
    with serving(StripePayments(meters=[])) as double:
        settings.STRIPE_API_BASE = double.url
        settings.STRIPE_SECRET_KEY = double.key
        make_plans()
        yield double
    assert not double.violations


def sync(*arguments):
    out = io.StringIO()
    call_command("sync_provider", "stripe", *arguments, stdout=out)
    return out.getvalue()


def test_what_is_missing_is_shown_made_and_not_made_again(world):
    made = sync("--yes")
    again = sync("--yes")

    assert "Basic plan" in made
    assert "$50.00 a month" in made
    assert again == "Nothing is missing at stripe.\n"
    keys = {offer.item.key for offer in catalogue.offers_on_sale()}
    assert {price["metadata"]["keystile_item"] for price in world.all_of("price")} == keys
    assert len(world.all_of("price")) == len(keys)
    assert world.meters == ["keystile_calls"]


@pytest.mark.parametrize(("answer", "meters"), [("n", 0), ("", 0), ("y", 1)])
def test_nothing_is_made_before_somebody_says_yes(world, monkeypatch, answer, meters):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{answer}\n"))

    said = sync()

    assert "keystile_calls" in said
    assert (len(world.meters), bool(world.all_of("price"))) == (meters, bool(meters))


def test_a_provider_that_is_away_or_unknown_is_said_in_one_line(world):
    world.away = True

    with pytest.raises(CommandError, match="Stripe"):
        sync("--yes")
    with pytest.raises(CommandError, match="none of"):
        call_command("sync_provider", "paddle")


def test_the_sandbox_lacks_nothing(world):
    out = io.StringIO()

    call_command("sync_provider", stdout=out)

    assert out.getvalue() == "Nothing is missing at sandbox.\n"
