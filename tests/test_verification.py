"""Proving an address with a mailed code."""

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from portal import announcements, verification
from portal.models import AddressCode, User
from portal.verification import Answer
from tests.factories import make_account, make_user

pytestmark = pytest.mark.django_db
NOW = timezone.now()


@pytest.fixture(autouse=True)
def _no_earlier_tries(redis_clean):
    """Limits count from zero."""


@pytest.fixture
def user(db) -> User:
    return make_user("ada@example.com")


@pytest.fixture
def mailed(mailoutbox):
    def code(user: User, *, now=NOW) -> str:
        """Asks for a code and reads it out of the mail."""
        assert verification.ask(user, now=now)
        announcements.send_waiting(now)
        assert mailoutbox[-1].to == [user.email]
        return re.search(r"\b\d{6}\b", mailoutbox[-1].body)[0]

    return code


def another(code: str) -> str:
    return f"{(int(code) + 1) % 10**6:06}"


def test_the_mailed_code_verifies_the_address(user, mailed):
    code = mailed(user)
    assert not verification.is_verified(user)

    assert verification.confirm(user, code, now=NOW) is Answer.VERIFIED

    assert verification.is_verified(user)
    assert verification.confirm(user, code, now=NOW) is Answer.SPENT


def test_the_code_is_nowhere_but_in_the_mail(user, mailed):
    code = mailed(user)

    with connection.cursor() as cursor:
        cursor.execute("SELECT row_to_json(c)::text FROM portal_addresscode c")
        ((row,),) = cursor.fetchall()
    assert code not in re.sub(r'"\w+_at":"[^"]*"', "", row)


def test_five_wrong_codes_end_the_tries_even_for_the_right_one(user, mailed):
    code = mailed(user)

    answers = [verification.confirm(user, another(code), now=NOW) for _ in range(5)]

    assert answers == [Answer.WRONG] * 4 + [Answer.SPENT]
    assert verification.confirm(user, code, now=NOW) is Answer.SPENT


def test_a_code_ends_after_a_quarter_of_an_hour(user, mailed):
    code = mailed(user)

    assert verification.confirm(user, code, now=NOW + timedelta(minutes=15)) is Answer.SPENT


def test_a_new_code_voids_the_old_one_and_has_its_own_tries(user, mailed):
    old = mailed(user)
    for _ in range(5):
        verification.confirm(user, another(old), now=NOW)
    later = NOW + timedelta(seconds=60)

    new = mailed(user, now=later)

    if new != old:
        assert verification.confirm(user, old, now=later) is Answer.WRONG
    assert verification.confirm(user, new, now=later) is Answer.VERIFIED


def test_codes_are_sent_a_minute_apart(user, mailed, mailoutbox):
    mailed(user)

    assert not verification.ask(user, now=NOW + timedelta(seconds=59))

    announcements.send_waiting(NOW + timedelta(seconds=59))
    assert len(mailoutbox) == 1


def test_a_code_is_worth_nothing_to_anybody_else(user, mailed):
    code = mailed(user)
    stranger = make_user()
    mailed(stranger)

    assert verification.confirm(stranger, code, now=NOW) is not Answer.VERIFIED


def test_a_code_proves_only_the_address_it_was_sent_to(user, mailed):
    code = mailed(user)
    user.email = "other@example.com"
    user.save(update_fields=["email"])

    assert verification.confirm(user, code, now=NOW) is Answer.SPENT


def test_the_page_takes_the_code_as_people_type_it_and_goes_on(client, mailoutbox):
    user = make_account().members.get()
    client.force_login(user)
    client.post("/verify/send/", {"next": "/buy/free/"})
    announcements.send_waiting(timezone.now())
    code = re.search(r"\b\d{6}\b", mailoutbox[-1].body)[0]

    wrong = client.post("/verify/", {"code": another(code), "next": "/buy/free/"})
    right = client.post("/verify/", {"code": f" {code[:3]} {code[3:]} ", "next": "/buy/free/"})

    assert "not the code of the latest mail" in wrong.content.decode()
    assert right.url == "/buy/free/"
    assert verification.is_verified(user)
    assert client.get("/verify/?next=/docs/").url == "/docs/"


@pytest.mark.parametrize("code", ["12345", "abcdef", "１２３４５６", "1234567", ""])
def test_what_cannot_be_a_code_costs_no_try(client, user, code):
    client.force_login(user)
    verification.ask(user, now=NOW)
    announcements.send_waiting(NOW)

    response = client.post("/verify/", {"code": code})

    assert response.status_code == 200
    assert AddressCode.objects.get().attempts == 0


def test_the_page_leads_nobody_to_a_strangers_site(client, user):
    client.force_login(user)

    page = client.get("/verify/?next=https://evil.example/").content.decode()

    assert "evil.example" not in page


def test_visitors_sign_in_first(client):
    assert client.get("/verify/").url == "/login/?next=/verify/"
    assert client.post("/verify/send/").url.startswith("/login/")
