"""What Stripe is asked for, what it may answer, and what its deliveries are about."""

from urllib.parse import parse_qsl

import pytest

from billing import providers
from billing.providers import Item, Order, ProviderUnavailable, Subject, stripe


def plan_at(amount_minor):
    return (Item("version:1", "Basic plan", amount_minor),)


def order(**fields):
    given = {
        "reference": "0198",
        "items": plan_at(5000),
        "currency": "USD",
        "interval": "month",
        "customer_email": "ada@example.com",
        "return_url": "http://127.0.0.1/checkout/1/",
        "cancel_url": "http://127.0.0.1/buy/basic/",
    }
    return Order(**given | fields)


def price(shop):
    """What the first session asked for."""
    session = next(o for o in shop.stripe.objects.values() if o["object"] == "checkout.session")
    return session["_line_items"][0]["price_data"]


@pytest.mark.parametrize(
    ("currency", "minor", "asked"),
    [
        ("EUR", 1999, "1999"),
        ("JPY", 500, "500"),
        ("KWD", 12340, "12340"),
        ("ISK", 990, "99000"),
        ("UGX", 5000, "500000"),
        ("MGA", 4500000, "45000"),
    ],
)
def test_amounts_are_in_the_places_that_stripe_counts_in(stripe_shop, currency, minor, asked):
    stripe.create_checkout(order(currency=currency, items=plan_at(minor), interval="year"))

    assert price(stripe_shop)["currency"] == currency.lower()
    assert price(stripe_shop)["unit_amount"] == asked
    assert price(stripe_shop)["recurring"] == {"interval": "year"}


def test_parts_that_stripe_cannot_charge_are_refused(stripe_shop):
    with pytest.raises(ProviderUnavailable, match="MGA"):
        stripe.create_checkout(order(currency="MGA", items=plan_at(4501)))


@pytest.mark.parametrize(
    ("tax", "asked"),
    [
        ("none", {}),
        (
            "automatic",
            {"automatic_tax[enabled]": "true", "tax_id_collection[enabled]": "true"},
        ),
        ("managed", {"managed_payments[enabled]": "true"}),
    ],
)
def test_tax_is_left_to_whom_the_seller_chose(stripe_shop, settings, tax, asked):
    settings.STRIPE_TAX, settings.STRIPE_TAX_CODE = tax, "txcd_10103001"

    stripe.create_checkout(order())

    form = dict(parse_qsl(stripe_shop.stripe.requests[-1].body.decode()))
    found = {name: form[name] for name in form if "[enabled]" in name}
    assert found == asked
    assert price(stripe_shop)["product_data"]["tax_code"] == "txcd_10103001"


@pytest.mark.parametrize("name", ["sub_nobody", "sub/../x"])
def test_a_subscription_that_stripe_does_not_know_is_no_answer(stripe_shop, name):
    for ask in (stripe.fetch_subscription, stripe.resume, stripe.refund_and_cancel):
        with pytest.raises(ProviderUnavailable):
            ask(name)


def test_without_a_key_nothing_is_asked(stripe_shop, settings):
    settings.STRIPE_SECRET_KEY = ""

    with pytest.raises(ProviderUnavailable, match="STRIPE_SECRET_KEY"):
        stripe.fetch_subscription("sub_1")


# ------------------------------------------------------------------ what deliveries are about


@pytest.mark.parametrize(
    ("delivery_type", "about", "expected"),
    [
        (
            "checkout.session.completed",
            {"client_reference_id": "r", "subscription": {"id": "sub_1"}},
            Subject("r", "sub_1"),
        ),
        ("checkout.session.completed", {"mode": "payment", "subscription": None}, None),
        (
            "customer.subscription.paused",
            {"id": "sub_1", "metadata": {"keystile_checkout": "r"}},
            Subject("r", "sub_1"),
        ),
        (
            "invoice.new_in_2031",
            {
                "parent": {
                    "subscription_details": {
                        "subscription": "sub_1",
                        "metadata": {"keystile_checkout": "r"},
                    }
                }
            },
            Subject("r", "sub_1"),
        ),
        ("invoice.paid", {"subscription": "sub_1"}, Subject("", "sub_1")),
        ("invoice.paid", {"parent": None, "subscription": None}, None),
        ("invoice.paid", {"parent": ["x"], "subscription": 7}, None),
        ("customer.updated", {"id": "cus_1"}, Subject("", "", "", "cus_1")),
        (
            "payment_method.attached",
            {"id": "pm_1", "customer": "cus_1"},
            Subject("", "", "", "cus_1"),
        ),
        ("payment_method.detached", {"id": "pm_1", "customer": None}, None),
        (
            "invoice.paid",
            {"customer": "cus_1", "metadata": {"keystile_charge": "r"}, "parent": None},
            Subject("r", "", "", "cus_1"),
        ),
        (
            "payment_intent.succeeded",
            {"id": "pi_1", "customer": "cus_1", "metadata": {"keystile_sale": "r"}},
            Subject("r", "", "pi_1", "cus_1"),
        ),
        (
            "charge.refunded",
            {"id": "ch_1", "payment_intent": "pi_1", "customer": {"id": "cus_1"}},
            Subject("", "", "pi_1", "cus_1"),
        ),
        (
            "charge.dispute.created",
            {"id": "du_1", "charge": "ch_1", "payment_intent": "pi_1"},
            Subject("", "", "pi_1"),
        ),
        ("refund.updated", {"id": "re_1", "payment_intent": None}, None),
        ("radar.new_thing", {"id": "sub_1"}, None),
    ],
)
def test_the_subject_is_read_from_old_new_and_odd_shapes(delivery_type, about, expected):
    assert stripe.subject(delivery_type, {"data": {"object": about}}) == expected


@pytest.mark.parametrize("payload", [{}, {"data": None}, {"data": {"object": []}}])
def test_a_delivery_about_nothing_has_no_subject(payload):
    assert stripe.subject("invoice.paid", payload) is None


def test_stripe_is_a_provider_like_the_others():
    asked = {name for name in vars(providers.Provider) if not name.startswith("_")}

    assert asked <= set(vars(providers.get("stripe")))
