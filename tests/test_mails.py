"""What people are told: each row becomes one mail, with no secret in it."""

import re
import uuid
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.db import connections
from django.utils import timezone

from billing.models import BillingEvent, EnterpriseRequest, Subscription
from keys import issuance
from keys.models import ApiKey, KeyEvent
from portal import announcements, mails
from portal.models import Membership
from tests.factories import make_account, make_member, make_plans, make_user

pytestmark = pytest.mark.django_db
NOW = timezone.now()


@pytest.fixture(autouse=True)
def _empty_store(redis_clean):
    """No announcement rests from an earlier test."""


@pytest.fixture
def account(db):
    return make_account(make_user("ada@example.com"), name="Northwind <Labs> & Sons")


def make_key(account, *, state=ApiKey.State.ACTIVE, **fields) -> ApiKey:
    claimed = state != ApiKey.State.UNCLAIMED
    return ApiKey.objects.create(
        account=account,
        name=fields.pop("name", "Production"),
        mode="live",
        state=state,
        origin=fields.pop("origin", ApiKey.Origin.CREATED),
        digest=fields.pop("digest", "d" * 64) if claimed else None,
        last_four="a1b2" if claimed else "",
        created_at=NOW,
        **fields,
    )


def tell(key: ApiKey, kind: str, **fields) -> KeyEvent:
    return KeyEvent.objects.create(key=key, kind=kind, at=NOW, **fields)


def test_an_issued_key_is_announced_with_a_link_that_claims_it_once(account, mailoutbox, settings):
    key = issuance.issue_first(account, NOW)

    announcements.send_waiting(NOW)

    (mail,) = mailoutbox
    assert mail.to == ["ada@example.com"]
    token = re.search(rf"{re.escape(settings.SITE_URL)}/claim/(\S+?)/", mail.body)[1]
    claimed, secret = issuance.claim_by_link(token, address=None, now=NOW)
    assert claimed == key
    assert secret not in mail.body
    assert "ks_live_" not in mail.body


def test_a_key_claimed_before_its_mail_went_out_needs_no_link(account, mailoutbox):
    key = issuance.issue_first(account, NOW)
    issuance.claim(key.pk, account, actor=None, address=None, now=NOW)

    announcements.send_waiting(NOW)

    (mail,) = mailoutbox
    assert mail.subject == "Key “First key” was shown"
    assert "/claim/" not in mail.body
    assert not KeyEvent.objects.filter(announced_at=None).exists()


@pytest.mark.parametrize("kind", ["created", "revoked"])
def test_whoever_looks_after_keys_is_told_what_happened_to_one(account, mailoutbox, kind):
    developer = make_member(account, Membership.Role.DEVELOPER)
    make_member(account, Membership.Role.BILLING)
    gone = make_member(account, Membership.Role.ADMIN)
    gone.is_active = False
    gone.save(update_fields=["is_active"])
    tell(make_key(account), kind, actor=developer, address="203.0.113.7")

    announcements.send_waiting(NOW)

    (mail,) = mailoutbox
    assert mail.to == ["ada@example.com", developer.email]
    assert mail.subject == f"Key “Production” was {kind}"
    assert f"By: {developer.email}, from 203.0.113.7" in mail.body
    assert "ks_live_…a1b2" in mail.body


def test_a_change_is_told_in_words(account, mailoutbox):
    tell(make_key(account), "changed", details=["Methods: all → GET, HEAD and OPTIONS"])

    announcements.send_waiting(NOW)

    (mail,) = mailoutbox
    assert mail.subject == "Key “Production” was changed"
    assert "Methods: all → GET, HEAD and OPTIONS" in mail.body


def test_a_rotation_names_both_keys_and_when_the_old_one_ends(account, mailoutbox):
    old = make_key(account, name="Production (old)", expires_at=NOW + timedelta(hours=1))
    make_key(account, digest="e" * 64, replaces=old)
    tell(old, KeyEvent.Kind.ROTATED)

    announcements.send_waiting(NOW)

    (mail,) = mailoutbox
    assert mail.subject == "Key “Production” was rotated"
    assert "The old key works until" in mail.body


def test_the_portals_own_key_is_nobodys_news(account, mailoutbox):
    tell(make_key(account, origin=ApiKey.Origin.CONSOLE), KeyEvent.Kind.CREATED)

    announcements.send_waiting(NOW)

    assert mailoutbox == []


TURN = {
    "plan": "Pro",
    "amount_minor": 13_80,
    "currency": "USD",
    "description": "Usage",
    "invoice": str(uuid.uuid4()),
    "refund": str(uuid.uuid4()),
}


@pytest.mark.parametrize("kind", BillingEvent.Kind.values)
def test_every_turn_of_a_subscription_has_its_mail(account, mailoutbox, kind):
    version = make_plans()["pro"]
    subscription = Subscription.objects.create(
        account=account,
        version=version,
        provider="sandbox",
        state=Subscription.State.ACTIVE,
        started_at=NOW,
        period_start=NOW,
        period_end=NOW + timedelta(days=30),
        anchor_day=1,
    )
    BillingEvent.objects.create(
        account=account, subscription=subscription, kind=kind, data=TURN, at=NOW
    )

    announcements.send_waiting(NOW)

    (mail,) = mailoutbox
    assert mail.to == [account.billing_email]
    assert mail.subject
    assert "/dashboard/billing/" in mail.body
    assert "{" not in mail.body


def test_each_row_is_told_once(account, mailoutbox):
    BillingEvent.objects.create(account=account, kind="payment_recovered", at=NOW)

    assert announcements.send_waiting(NOW) == 1
    assert announcements.send_waiting(NOW) == 0

    assert len(mailoutbox) == 1
    assert BillingEvent.objects.get().announced_at == NOW


@pytest.mark.django_db(transaction=True)
def test_two_workers_never_send_side_by_side(account, mailoutbox):
    BillingEvent.objects.create(account=account, kind="payment_recovered", at=NOW)
    other_worker = connections["default"].copy()
    try:
        with other_worker.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtext(%s))", [announcements.LOCK])

            assert announcements.send_waiting(NOW) == 0
            assert mailoutbox == []

            cursor.execute("SELECT pg_advisory_unlock(hashtext(%s))", [announcements.LOCK])
        assert announcements.send_waiting(NOW) == 1
    finally:
        other_worker.close()


def test_a_mail_that_cannot_be_sent_is_tried_again_and_holds_up_nothing_else(
    account, mailoutbox, settings
):
    event = BillingEvent.objects.create(account=account, kind="payment_recovered", at=NOW)
    works = settings.EMAIL_BACKEND
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9

    assert announcements.send_waiting(NOW) == 0
    event.refresh_from_db()
    assert event.announced_at is None

    settings.EMAIL_BACKEND = works
    BillingEvent.objects.create(account=account, kind="ended", at=NOW)
    assert announcements.send_waiting(NOW) == 1
    cache.delete(f"announcement rests:billing.billingevent:{event.pk}")  # a minute later
    assert announcements.send_waiting(NOW) == 1
    assert [mail.subject for mail in mailoutbox] == [
        "Your plan has ended",
        "Your payment went through",
    ]


def test_a_mail_that_cannot_be_made_holds_up_no_other(account, mailoutbox):
    BillingEvent.objects.create(account=account, kind="unheard of", at=NOW)
    BillingEvent.objects.create(account=account, kind="ended", at=NOW)

    assert announcements.send_waiting(NOW) == 1

    assert [mail.subject for mail in mailoutbox] == ["Your plan has ended"]


def test_a_mail_that_nobody_takes_is_given_up_after_three_days(account, settings):
    event = BillingEvent.objects.create(account=account, kind="payment_recovered", at=NOW)
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9

    announcements.send_waiting(NOW + timedelta(days=3))

    event.refresh_from_db()
    assert event.announced_at is not None


def test_both_parts_of_a_mail_say_the_same(account):
    mail = mails.compose(
        "key/created",
        ["ada@example.com"],
        {"key": make_key(account), "account": account, "event": KeyEvent(at=NOW)},
    )

    assert "Northwind &lt;Labs&gt; &amp; Sons" in mail.html
    assert "Northwind <Labs> & Sons" in " ".join(mail.text.split())
    assert "<style>" in mail.html
    assert "font-size" not in mail.text
    assert all(len(line) <= 76 or "://" in line for line in mail.text.splitlines())


def test_what_a_stranger_writes_is_only_text(mailoutbox, settings, db):
    settings.STAFF_EMAIL = "staff@example.com"
    EnterpriseRequest.objects.create(
        name="<b>Eve</b>",
        email="eve@example.com",
        company="Acme\r\nBcc: everybody@example.com",
        message="<a href='https://evil.example'>Click</a>\nsecond line",
    )

    announcements.send_waiting(NOW)

    (mail,) = mailoutbox
    assert mail.subject == "Enterprise request from Acme Bcc: everybody@example.com"
    assert mail.recipients() == ["staff@example.com"]
    html = mail.alternatives[0].content
    assert "evil.example'>" not in html
    assert "&lt;b&gt;Eve" in html
