"""Owner, teammates and outsiders: who may see and do what in an account."""

from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import catalogue, free_plan
from billing.models import Checkout
from keys import issuance
from keys.models import ApiKey
from portal.models import Membership, User
from portal.roles import Capability, may
from tests.factories import make_account, make_api, make_member, make_plans, make_user
from tests.markup import Page, faults

pytestmark = pytest.mark.django_db

Role = Membership.Role
KEY_PAGES = ("key_claim", "key_rotate", "key_revoke")
ALL_KEY_PAGES = ("key_page", *KEY_PAGES)
READING = ("overview", "live_overview", "keys", "billing")


@pytest.fixture
def account(redis_clean):
    """On Free, with its first key unclaimed."""
    make_api()
    make_plans()
    owner = make_user()
    EmailAddress.objects.create(user=owner, email=owner.email, verified=True)
    account = make_account(owner)
    free_plan.start(account, owner, timezone.now())
    return account


@pytest.fixture
def active_key(account):
    key = account.keys.get(origin=ApiKey.Origin.FIRST)
    issuance.claim(key.pk, account, actor=None, address=None, now=timezone.now())
    return key


@pytest.fixture
def checkout(account):
    return Checkout.objects.create(
        account=account,
        version=catalogue.current("pro"),
        provider="sandbox",
        created_at=timezone.now(),
    )


def signed_in(user):
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def owner_of(account):
    return account.memberships.get(role=Role.OWNER).user


def outsider():
    """Somebody with an account of their own."""
    user = make_user()
    make_account(user, name="Other people")
    return signed_in(user)


@pytest.mark.parametrize("page", [*READING, "key_create", "billing_cancel"])
def test_a_stranger_is_sent_to_the_login_and_back(page):
    answer = Client().get(reverse(page))

    assert answer.status_code == 302
    assert answer.url == f"/login/?next={reverse(page)}"


def test_a_part_of_a_page_is_no_login_form_when_the_session_is_over():
    answer = Client().get(reverse("live_overview"), headers={"HX-Request": "true"})

    assert answer["HX-Refresh"] == "true"
    assert not answer.content


def test_a_stranger_who_buys_is_sent_to_the_sign_up_and_back(account):
    answer = Client().get("/buy/pro/")

    assert answer.status_code == 302
    assert answer.url == "/signup/?next=/buy/pro/"


@pytest.mark.parametrize("page", ALL_KEY_PAGES)
@pytest.mark.parametrize("method", ["get", "post"])
def test_an_outsider_gets_404_for_another_account_s_key(account, active_key, page, method):
    answer = getattr(outsider(), method)(reverse(page, args=[active_key.pk]))

    active_key.refresh_from_db()
    assert answer.status_code == 404
    assert active_key.state == ApiKey.State.ACTIVE
    assert active_key.revision == 2


def test_an_outsider_gets_404_for_another_account_s_unclaimed_key(account):
    key = account.keys.get(origin=ApiKey.Origin.FIRST)

    answer = outsider().post(reverse("key_claim", args=[key.pk]))

    key.refresh_from_db()
    assert answer.status_code == 404
    assert key.state == ApiKey.State.UNCLAIMED


def test_an_outsider_gets_404_for_another_account_s_checkout(checkout):
    page = reverse("checkout_return", args=[checkout.pk])

    assert outsider().get(page).status_code == 404
    assert outsider().get(page, headers={"HX-Request": "true"}).status_code == 404


def test_an_outsider_s_pages_show_nothing_of_another_account(account, active_key):
    client = outsider()

    for page in READING:
        text = client.get(reverse(page)).content.decode()
        assert account.name not in text
        assert active_key.hint not in text


def test_an_outsider_can_t_point_the_session_at_another_account(account):
    client = outsider()
    session = client.session
    session["account"] = str(account.pk)
    session.save()

    text = client.get(reverse("overview")).content.decode()

    assert "Other people" in text
    assert account.name not in text


def switch(client, account):
    return client.post(reverse("switch_account"), {"account": str(account.pk)})


def test_a_member_of_two_accounts_acts_for_the_one_switched_to(account):
    user = make_user()
    own = make_account(user, name="Own things")
    Membership.objects.create(user=user, account=account, role=Role.VIEWER)
    client = signed_in(user)

    first = client.get(reverse("keys"))
    answer = switch(client, account)
    second = client.get(reverse("keys"))
    switch(client, own)

    assert answer.url == reverse("overview")
    assert first.wsgi_request.account == own
    assert second.wsgi_request.account == account
    assert client.get(reverse("keys")).wsgi_request.account == own
    page = Page(second.content.decode())
    assert page.one("option", selected="").text == account.name
    assert faults(page.html) == []


def test_who_has_one_account_is_shown_no_switch(account):
    page = Page(signed_in(owner_of(account)).get(reverse("keys")).content.decode())

    assert page.all("select", name="account") == []


def test_an_outsider_gets_404_for_the_switch_to_another_account(account):
    client = outsider()

    answers = [switch(client, account), client.post(reverse("switch_account"), {"account": "x"})]

    assert [answer.status_code for answer in answers] == [404, 404]
    assert client.get(reverse("overview")).wsgi_request.account != account


def test_a_membership_that_is_gone_leads_back_to_one_s_own_account(account):
    user = make_user()
    own = make_account(user, name="Own things")
    membership = Membership.objects.create(user=user, account=account, role=Role.VIEWER)
    client = signed_in(user)
    switch(client, account)

    membership.delete()

    assert client.get(reverse("overview")).wsgi_request.account == own


def test_somebody_without_an_account_is_told_so(redis_clean):
    answer = signed_in(make_user()).get(reverse("overview"))

    assert answer.status_code == 403
    assert "member of an account" in answer.content.decode()


@pytest.mark.parametrize("role", Role.values)
@pytest.mark.parametrize("page", READING)
def test_every_member_reads(account, role, page):
    member = owner_of(account) if role == Role.OWNER else make_member(account, role)

    assert signed_in(member).get(reverse(page)).status_code in (200, 204)


@pytest.mark.parametrize("role", [Role.ADMIN, Role.DEVELOPER, Role.BILLING, Role.VIEWER])
def test_keys_are_for_owners_admins_and_developers(account, active_key, role):
    client = signed_in(make_member(account, role))
    allowed = role in (Role.ADMIN, Role.DEVELOPER)

    pages = [reverse("key_create"), *(reverse(page, args=[active_key.pk]) for page in KEY_PAGES)]
    answers = [client.get(page) for page in pages]

    assert {answer.status_code == 403 for answer in answers} == {not allowed}
    if not allowed:
        assert "an owner, an admin or a developer" in answers[0].content.decode()


@pytest.mark.parametrize("role", [Role.BILLING, Role.VIEWER])
@pytest.mark.parametrize("page", KEY_PAGES)
def test_a_refused_role_changes_nothing(account, active_key, role, page):
    client = signed_in(make_member(account, role))

    answer = client.post(reverse(page, args=[active_key.pk]), {"overlap": "0"})

    active_key.refresh_from_db()
    assert answer.status_code == 403
    assert active_key.state == ApiKey.State.ACTIVE
    assert active_key.expires_at is None


@pytest.mark.parametrize("role", [Role.ADMIN, Role.DEVELOPER, Role.BILLING, Role.VIEWER])
def test_plans_are_for_owners_admins_and_billing_members(account, role):
    client = signed_in(make_member(account, role))
    allowed = role in (Role.ADMIN, Role.BILLING)

    answers = [client.get("/buy/pro/"), client.get(reverse("billing_cancel"))]

    assert {answer.status_code == 403 for answer in answers} == {not allowed}
    if not allowed:
        assert "an owner, an admin or a billing member" in answers[0].content.decode()


def test_nobody_outside_the_roles_may_anything():
    assert not any(may("guest", capability) for capability in Capability)


def test_pages_of_an_account_are_stored_by_no_browser(account):
    client = signed_in(owner_of(account))

    for page in READING:
        assert "no-store" in client.get(reverse(page))["Cache-Control"]


def test_the_portal_s_own_key_is_no_page_of_the_customer_s(account):
    key = issuance.console_key(account, timezone.now() - timedelta(days=1))
    client = signed_in(owner_of(account))

    assert key.name not in client.get(reverse("keys")).content.decode().split("<main")[1]
    for page in KEY_PAGES:
        assert client.post(reverse(page, args=[key.pk])).status_code == 404


def test_a_refusal_is_one_line_in_the_log(account, caplog):
    signed_in(make_member(account, Role.VIEWER)).get(reverse("key_create"))

    (said,) = [record for record in caplog.records if record.name == "django.request"]
    assert "key" in said.getMessage()
    assert said.exc_info is None


def test_staff_without_an_account_are_sent_to_the_admin(client):
    client.force_login(User.objects.create_superuser("staff@example.com", "a long enough one"))

    answer = client.get("/dashboard/")

    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/")
