"""Payments, receipts, credit notes and who is billed, as customers and staff see them."""

import pytest
from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import Client
from django.urls import reverse

from billing import accounts, charges, payments, refunds, tickets
from billing.models import BuyerDetails, Charge, Payment, Refund
from billing.providers import ChargeLine, PaymentState
from keys.models import Entitlement
from portal import announcements
from tests.factories import make_account, make_member, make_plans
from tests.ledger_world import DAY, HOUR, close, closed, month, subscribe, tell, use
from tests.markup import faults

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_clean")]

MARCH, APRIL = month(3), month(4)


@pytest.fixture
def account():
    return make_account()


@pytest.fixture
def invoice(account):
    """March's, whose usage could not be charged."""
    subscription = subscribe(account, make_plans()["basic"], MARCH)
    use(account, MARCH + DAY, 12_300)
    tell(subscription, APRIL)
    close(APRIL + 2 * HOUR)
    charges.heard(Charge.objects.get(), "failed", "Your card was declined.", APRIL + 2 * HOUR)
    return closed(account)[0]


@pytest.fixture
def payment(account):
    hear(account)
    return Payment.objects.get()


def hear(account, **changed):
    said = {
        "kind": "subscription",
        "status": "paid",
        "amount_minor": 59_50,
        "tax_minor": 9_50,
        "tax_lines": (("VAT 19 % (DE)", 9_50),),
        "currency": "USD",
        "at": MARCH,
        "number": "DP-77",
        "page_url": "https://pay.example.com/77",
        "buyer": {"name": "Provider’s Buyer"},
    }
    with transaction.atomic():
        payments.apply(
            accounts.locked(account.pk),
            None,
            "sandbox",
            [PaymentState(**({"id": "pay_1"} | said | changed))],
            tickets.take(),
            MARCH,
        )


def browser_of(user):
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def owner(account):
    return browser_of(account.members.get())


@pytest.fixture
def staff():
    return browser_of(get_user_model().objects.create_superuser("boss@example.com", "x" * 20))


def text_of(answer):
    assert answer.status_code == 200
    text = answer.content.decode()
    assert faults(text) == []
    return text


# ------------------------------------------------------------------ customers


def test_an_invoice_says_that_its_payment_failed_and_how_to_go_on(owner, invoice):
    for address in (reverse("invoices"), reverse("invoice", args=[invoice.pk])):
        text = text_of(owner.get(address))
        assert "Payment failed: Your card was declined." in text
        assert "Try again" in text
    assert "An invoice could not be charged." in text_of(owner.get(reverse("billing")))


def test_a_member_has_a_failed_charge_tried_again(owner, invoice):
    owner.post(reverse("charge_again"))

    assert Charge.objects.get().state in ("due", "unknown")
    assert "Payment failed" in text_of(owner.get(reverse("invoices")))


def test_an_invoice_names_seller_buyer_and_the_tax_taken_with_it(owner, account, settings):
    settings.SELLER_NAME, settings.SELLER_TAX_ID = "Holidays GmbH", "DE999"
    BuyerDetails.objects.create(account=account, name="Söhne AG", address="Ring 1", tax_id="AT1")
    subscription = subscribe(account, make_plans()["basic"], MARCH)
    use(account, MARCH + DAY, 12_300)
    tell(subscription, APRIL)
    close(APRIL + 2 * HOUR)
    charge = Charge.objects.get()
    hear(account, id="pay_2", kind="charge", reference=str(charge.pk), number="", buyer={})

    text = text_of(owner.get(reverse("invoice", args=[closed(account)[0].pk])))

    for said in ("Holidays GmbH", "DE999", "Söhne AG", "Ring 1", "AT1", "VAT 19 % (DE)", "$9.50"):
        assert said in text
    assert f"</a>, {charge.description}" in text


def test_an_invoice_says_when_it_was_paid(owner, account, invoice):
    charges.paid(Charge.objects.get(), APRIL + 3 * HOUR)
    reference = str(Charge.objects.get().pk)
    hear(account, kind="charge", reference=reference, amount_minor=13_80, tax_minor=0)

    text = text_of(owner.get(reverse("invoice", args=[invoice.pk])))

    assert "Paid on 1 April 2026" in text
    assert "invoice DP-77 of the payment provider" in text


def test_payments_have_receipts_with_the_tax_as_the_provider_computed_it(owner, payment):
    listed = text_of(owner.get(reverse("payments")))
    receipt = text_of(owner.get(reverse("payment", args=[payment.pk])))

    assert "$59.50" in listed
    for words in ("VAT 19 % (DE)", "$9.50", "$50.00", "DP-77", "Provider’s Buyer"):
        assert words in receipt


def test_a_page_of_payments_asks_little_whatever_they_refer_to(
    owner, account, django_assert_max_num_queries
):
    for number, kind in enumerate(("sale", "charge", "sale", "charge", "subscription", "sale")):
        hear(account, id=f"pay_{number}", kind=kind, reference="a sale of the seller's own")

    with django_assert_max_num_queries(10):
        answer = owner.get("/dashboard/billing/payments/")

    assert "Prepaid credits" in text_of(answer)


def test_a_credit_note_names_its_payment_and_reason(owner, payment):
    refund = refunds.ask(payment.pk, 10_00, "Goodwill", MARCH + DAY)
    refunds.done(refund.pk, MARCH + DAY)

    text = text_of(owner.get(reverse("refund", args=[refund.pk])))

    assert "Credit note CN-000001" in text
    assert "Goodwill" in text
    assert "$10.00 paid back" in text_of(owner.get(reverse("payments")))


def test_a_dispute_shows_and_reaches_the_staff(owner, account, payment, mailoutbox, settings):
    settings.STAFF_EMAIL = "staff@example.com"
    hear(account, dispute="open")

    announcements.send_waiting(MARCH + DAY)
    announcements.send_waiting(MARCH + DAY)

    assert "disputed" in text_of(owner.get(reverse("payments")))
    to_staff = [mail for mail in mailoutbox if mail.to == ["staff@example.com"]]
    assert len(to_staff) == 1
    assert str(payment.pk) in to_staff[0].body


def test_who_is_billed_is_told_on_a_form(owner, account):
    address = reverse("billing_details")
    asked = {"name": "Acme", "address": "1 Road\nTown", "country": "de", "tax_id": "DE123"}

    assert owner.post(address, asked | {"country": "D1"}).status_code == 422
    assert owner.post(address, asked).status_code == 302

    details = BuyerDetails.objects.get(account=account)
    assert (details.name, details.country, details.tax_id) == ("Acme", "DE", "DE123")
    assert "Acme" in text_of(owner.get(address))


def test_empty_pages_say_what_will_be_there(owner):
    assert "No payment yet" in text_of(owner.get(reverse("payments")))
    assert "No invoice yet" in text_of(owner.get(reverse("invoices")))


def test_outsiders_get_404_and_developers_are_refused(account, payment):
    refund = refunds.ask(payment.pk, 10_00, "", MARCH + DAY)
    refunds.done(refund.pk, MARCH + DAY)
    outsider = browser_of(make_account().members.get())
    developer = browser_of(make_member(account, "developer"))

    for address in (reverse("payment", args=[payment.pk]), reverse("refund", args=[refund.pk])):
        assert outsider.get(address).status_code == 404
        assert developer.get(address).status_code == 403
    for name in ("payments", "billing_details"):
        assert developer.get(reverse(name)).status_code == 403
    assert developer.post(reverse("charge_again")).status_code == 403


# ------------------------------------------------------------------ staff


def test_staff_pay_back_a_part_with_a_reason(staff, payment):
    page = reverse("admin:billing_payment_change", args=[payment.pk])
    address = reverse("admin:billing_payment_refund", args=[payment.pk])
    assert address in staff.get(page).content.decode()
    assert "59.50" in staff.get(address).content.decode()

    too_much = staff.post(address, {"amount": "59.51", "reason": "x"})
    done = staff.post(address, {"amount": "10.00", "reason": "Goodwill"})

    assert "less left" in too_much.content.decode()
    assert done.status_code == 302
    refund = Refund.objects.get()
    assert (refund.amount_minor, refund.reason, refund.state) == (10_00, "Goodwill", "due")
    assert refund.created_by is not None


def test_staff_settle_what_is_paid_by_transfer_and_give_up_what_is_not_paid(staff, account):
    lines = [ChargeLine("Base", 1_000_00)]
    first, second = (
        charges.create(account.pk, None, lines, "Contract", MARCH, currency="USD") for _ in "12"
    )
    address = "/admin/billing/charge/deed/"

    staff.post(f"{address}paid/?pk={first.pk}", {"pk": str(first.pk)})
    staff.post(f"{address}drop/?pk={second.pk}", {"pk": str(second.pk), "reason": "Bankrupt"})

    first.refresh_from_db(), second.refresh_from_db()
    assert (first.state, second.state) == ("paid", "dropped")


def test_staff_have_a_failed_charge_tried_again(staff, invoice):
    charge = Charge.objects.get()
    assert "invoice that could not be charged" in staff.get("/admin/").content.decode()

    staff.post(f"/admin/billing/charge/deed/again/?pk={charge.pk}", {"pk": str(charge.pk)})

    charge.refresh_from_db()
    assert charge.state == "due"


def test_every_page_of_money_opens_for_staff(staff, payment, invoice):
    refund = refunds.ask(payment.pk, 10_00, "", MARCH + DAY)
    for name, row in (("payment", payment), ("charge", Charge.objects.get()), ("refund", refund)):
        assert staff.get(reverse(f"admin:billing_{name}_changelist")).status_code == 200
        page = reverse(f"admin:billing_{name}_change", args=[row.pk])
        assert staff.get(page).status_code == 200
    assert staff.get(reverse("admin:billing_invoice_changelist")).status_code == 200


def test_a_lost_dispute_shows_as_suspended(owner, account, invoice):
    hear(account)
    hear(account, dispute="lost")

    assert Entitlement.objects.get(account=account).suspended
    assert "This account is suspended." in text_of(owner.get(reverse("billing")))
