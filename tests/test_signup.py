"""Sign-up, login and forgotten passwords."""

import re
from datetime import UTC, datetime

import pytest
import time_machine
from allauth.account.models import EmailAddress
from django.test import Client

from portal.models import Account, AddressCode, User
from tests.factories import make_user

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
PASSWORD = "a long enough one"


@pytest.fixture(autouse=True)
def _no_earlier_tries(redis_clean):
    """Limits count from zero."""


def sign_up(client: Client, email: str = "ada@example.com", **fields: str):
    return client.post("/signup/", {"email": email, "password1": PASSWORD, **fields})


def test_signing_up_makes_an_account_that_the_user_owns(client):
    response = sign_up(client)

    assert response.url == "/dashboard/"
    account = Account.objects.get()
    assert account.billing_email == "ada@example.com"
    assert [(m.user.email, m.role) for m in account.memberships.all()] == [
        ("ada@example.com", "owner")
    ]
    assert client.session["_auth_user_id"] == str(User.objects.get().pk)


def test_signing_up_asks_for_a_code_and_verifies_nothing(client):
    sign_up(client)

    assert AddressCode.objects.get().email == "ada@example.com"
    assert not EmailAddress.objects.get().verified


def test_whoever_wanted_to_buy_goes_on_with_that(client):
    page = client.get("/signup/?next=/buy/pro/").content.decode()
    assert 'name="next" value="/buy/pro/"' in page
    assert "/login/?next=%2Fbuy%2Fpro%2F" in page

    assert sign_up(client, next="/buy/pro/").url == "/buy/pro/"


@pytest.mark.parametrize("address", ["https://evil.example/", "//evil.example", "javascript:1"])
def test_nobody_is_sent_to_a_strangers_site(client, address):
    assert sign_up(client, next=address).url == "/dashboard/"


def test_an_address_signs_up_once_however_it_is_written(client):
    make_user("ada@example.com")

    response = sign_up(client, "Ada@Example.com")

    assert "This address has an account already." in response.content.decode()
    assert User.objects.count() == 1


def test_a_weak_password_is_refused_with_the_reason(client):
    response = client.post("/signup/", {"email": "ada@example.com", "password1": "password"})

    assert "too common" in response.content.decode()
    assert not User.objects.exists()


def test_a_wrong_password_and_an_unknown_address_get_the_same_answer(client):
    make_user("ada@example.com")

    answers = [
        client.post("/login/", {"login": email, "password": "not the password"}).content.decode()
        for email in ("ada@example.com", "bob@example.com")
    ]

    told = [re.findall(r'role="alert"><p>(.*?)</p>', answer) for answer in answers]
    assert told[0] == told[1] == ["No account has this address and password. Check both."]


def test_signing_in_goes_on_where_one_wanted_to_go(client):
    make_user("ada@example.com", password=PASSWORD)

    response = client.post(
        "/login/", {"login": "ada@example.com", "password": PASSWORD, "next": "/docs/"}
    )

    assert response.url == "/docs/"


@time_machine.travel(NOON, tick=False)
def test_guessing_one_persons_password_is_stopped_from_everywhere(client):
    make_user("ada@example.com", password=PASSWORD)
    wrong = {"login": "ada@example.com", "password": "not the password"}
    for number in range(10):
        client.post("/login/", wrong, REMOTE_ADDR=f"203.0.113.{number}")

    response = client.post("/login/", wrong | {"login": "ADA@example.com"})

    assert response.status_code == 429
    assert int(response["Retry-After"]) > 0
    assert client.post("/login/", wrong | {"login": "bob@example.com"}).status_code == 200


@time_machine.travel(NOON, tick=False)
def test_an_ipv6_client_cannot_roam_its_own_network(client):
    for number in range(60):
        client.post("/signup/", {}, REMOTE_ADDR=f"2001:db8::{number:x}")

    assert client.post("/signup/", {}, REMOTE_ADDR="2001:db8::ffff").status_code == 429
    assert client.post("/signup/", {}, REMOTE_ADDR="2001:db8:0:1::1").status_code == 200


def test_signing_out_takes_a_form(client):
    client.force_login(make_user())

    client.get("/logout/")
    assert "_auth_user_id" in client.session

    assert client.post("/logout/").url == "/"
    assert "_auth_user_id" not in client.session


def test_a_forgotten_password_is_replaced_through_the_mail(client, mailoutbox):
    make_user("ada@example.com")
    client.post("/password/reset/", {"email": "ada@example.com"})
    (mail,) = mailoutbox
    link = re.search(r"http://\S+(/password/reset/key/\S+)", mail.body)[1]

    form = client.get(link, follow=True)
    client.post(
        form.redirect_chain[-1][0],
        {"password1": "another long one", "password2": "another long one"},
    )

    assert User.objects.get().check_password("another long one")
    assert "used up" in client.get(link, follow=True).content.decode()


def test_asking_for_a_password_says_nothing_about_who_has_an_account(client, mailoutbox):
    make_user("ada@example.com")

    pages = [
        client.post("/password/reset/", {"email": email}, follow=True).content.decode()
        for email in ("ada@example.com", "bob@example.com")
    ]

    assert pages[0] == pages[1]
    subjects = {mail.to[0]: mail.subject for mail in mailoutbox}
    assert subjects["bob@example.com"].startswith("No account")
