"""Invoices, receipts and credit notes as PDF: in any script, of any length, for nobody else."""

import re

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse

from billing import refunds
from billing.models import Payment
from portal import pdf
from portal.papers import Paper
from tests.factories import make_account, make_member, make_plans
from tests.ledger_world import DAY, HOUR, close, closed, month, subscribe, tell, use

MARCH, APRIL = month(3), month(4)


def paper(**changed):
    said = {
        "title": "Invoice INV-000017",
        "seller": {"name": "Daten & Söhne GmbH", "address": ["Straße 1", "Berlin"], "tax_id": "D1"},
        "buyer": {"name": "Acme", "address": [], "email": "a@example.com"},
        "facts": (("Date", "1 April 2026"),),
        "rows": (("Calls", "€1,234.50"), ("Späte Nutzung", "¥900"), ("Rupees", "₹5.00")),
        "totals": (("Total", "€1,234.50"),),
    }
    return Paper(**(said | changed))


def fonts_of(file):
    return set(re.findall(rb"/BaseFont /(?:[A-Z]{6}\+)?([A-Za-z0-9-]+)", file))


def pages_of(file):
    return len(re.findall(rb"/Type /Page\b", file))


def is_whole(file):
    return file.startswith(b"%PDF-") and file.rstrip().endswith(b"%%EOF")


def test_a_paper_is_one_page_in_the_fonts_that_it_brings():
    file = pdf.render(paper())

    assert is_whole(file)
    assert pages_of(file) == 1
    assert {b"DejaVuSans", b"DejaVuSans-Bold"} <= fonts_of(file)
    assert b"/FontFile2" in file
    assert len(file) < 60_000


def test_the_same_paper_gives_the_same_file():
    assert pdf.render(paper()) == pdf.render(paper())


@pytest.mark.parametrize("character", "€¥£₹₩äöüßÄÖÜéñçłőğşžøåæœĳαΩжЩїՀქ–—“”„…™−×")
def test_what_people_and_prices_are_written_with_is_in_the_fonts(character):
    for font in (pdf.REGULAR, pdf.BOLD):
        assert [name for name, _ in pdf._runs(character, font)] == [font]
        assert ord(character) in pdf._register()[font]


@pytest.mark.parametrize(
    ("name", "font"),
    [
        ("株式会社データ", b"HeiseiKakuGo-W5"),
        ("数据有限公司", b"STSong-Light"),
        ("주식회사 데이터", b"HYGothic-Medium"),
    ],
)
def test_names_in_far_eastern_scripts_use_the_readers_fonts(name, font):
    file = pdf.render(paper(buyer={"name": name}))

    assert is_whole(file)
    assert font in fonts_of(file)


@pytest.mark.parametrize(
    "text", ["", " ", "x" * 5000, "a\x00b\x07", "\u202eevil", "🙂", "(\\)%%EOF\n<</JS>>", "السلام"]
)
def test_whatever_a_customer_calls_itself_the_file_is_whole(text):
    file = pdf.render(paper(buyer={"name": text, "address": [text]}, notes=(text,)))

    assert is_whole(file)
    assert b"/JS" not in file


def test_a_long_invoice_goes_on_over_pages():
    rows = tuple((f"Calls of operation {number}", "$1.00") for number in range(300))

    assert pages_of(pdf.render(paper(rows=rows))) > 4


# ------------------------------------------------------------------ for whom


@pytest.fixture
def account(db, redis_clean):
    return make_account()


@pytest.fixture
def papers(account):
    """The addresses of an invoice, a receipt and a credit note."""
    subscription = subscribe(account, make_plans()["basic"], MARCH)
    use(account, MARCH + DAY, 12_300)
    tell(subscription, APRIL)
    close(APRIL + 2 * HOUR)
    payment = Payment.objects.create(
        account=account,
        provider="sandbox",
        provider_payment_id="pay_1",
        kind="subscription",
        state="paid",
        amount_minor=50_00,
        currency="USD",
        at=MARCH,
    )
    refund = refunds.ask(payment.pk, 10_00, "Goodwill", MARCH + DAY)
    refunds.done(refund.pk, MARCH + DAY)
    return {
        "invoice": closed(account)[0].pk,
        "payment": payment.pk,
        "refund": refund.pk,
    }


def browser_of(user):
    client = Client()
    client.force_login(user)
    return client


def test_members_get_their_papers_and_nobody_else_does(account, papers):
    owner = browser_of(account.members.get())
    outsider = browser_of(make_account().members.get())
    developer = browser_of(make_member(account, "developer"))

    for kind, row in papers.items():
        address = reverse(f"{kind}_pdf", args=[row])
        answer = owner.get(address)
        assert answer["Content-Type"] == "application/pdf"
        assert answer["Content-Disposition"].startswith('attachment; filename="')
        assert is_whole(answer.content)
        assert outsider.get(address).status_code == 404
        assert developer.get(address).status_code == 403
        assert address in owner.get(reverse(kind, args=[row])).content.decode()


def test_staff_get_the_papers_of_all(papers, client):
    staff = browser_of(get_user_model().objects.create_superuser("boss@example.com", "x" * 20))

    for kind, row in papers.items():
        address = reverse(f"admin:billing_{kind}_pdf", args=[row])
        assert is_whole(staff.get(address).content)
        page = reverse(f"admin:billing_{kind}_change", args=[row])
        assert address in staff.get(page).content.decode()
        assert client.get(address).status_code == 302


def test_an_open_invoice_has_no_paper_yet(account, papers):
    open_one = account.invoices.filter(state="open").first()

    owner = browser_of(account.members.get())

    assert owner.get(reverse("invoice_pdf", args=[open_one.pk])).status_code == 404
