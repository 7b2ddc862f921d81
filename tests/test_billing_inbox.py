"""A webhook is a hint: what isn't the provider's is refused, what fails is tried again."""

import base64
import hashlib
import hmac
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import requests
from django.db import ProgrammingError, connection
from django.utils import timezone
from standardwebhooks import Webhook

from billing import inbox
from billing.models import Checkout, ProviderEvent
from billing.providers import ProviderUnavailable
from billing.sandbox.deliveries import signed_headers
from billing.sandbox.models import SandboxDelivery, SandboxOrder
from tests.factories import make_account
from tests.shop import waiting_events

BODY = json.dumps({"type": "checkout.completed", "data": {"reference": "x"}}).encode()


def signed(body=BODY, message_id="msg_1", at=None):
    """Headers as the sandbox sends them."""
    return signed_headers(message_id, body, at or timezone.now())


def signed_raw(body, settings, message_id="msg_1"):
    """Headers for a body that is no text, signed by hand as the specification says."""
    secret = base64.b64decode(settings.SANDBOX_WEBHOOK_SECRET.removeprefix("whsec_"))
    stamp = str(int(timezone.now().timestamp()))
    content = f"{message_id}.{stamp}.".encode() + body
    digest = base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{digest}",
    }


def assert_refused(answer):
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "bad_request"
    assert ProviderEvent.objects.count() == 0


def test_a_signed_delivery_is_stored_once_and_answered_twice(shop):
    headers = signed()

    first, second = shop.webhook(BODY, headers), shop.webhook(BODY, headers)

    assert (first.status_code, second.status_code) == (200, 200)
    event = ProviderEvent.objects.get()
    assert (event.external_id, event.type) == ("msg_1", "checkout.completed")
    assert event.payload == json.loads(BODY)


def test_the_same_delivery_eight_times_at_once_is_one_row(shop):
    headers = signed()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shop.webhook(BODY, headers), range(8)))

    assert {answer.status_code for answer in answers} == {200}
    assert ProviderEvent.objects.count() == 1


def another_secret():
    return Webhook("whsec_" + base64.b64encode(b"another secret, 24 bytes!").decode())


SPOILED = [
    lambda _: {},
    lambda headers: {**headers, "webhook-signature": ""},
    lambda headers: {**headers, "webhook-signature": "v1,"},
    lambda headers: {**headers, "webhook-signature": "v1,AAAA"},
    lambda headers: {**headers, "webhook-signature": "v1"},
    lambda headers: {**headers, "webhook-signature": "v1,not base64 at all!"},
    lambda headers: {**headers, "webhook-signature": "v1,\u00e9\u00e9\u00e9".encode("latin-1")},
    lambda headers: {**headers, "webhook-signature": "a,b,c d"},
    lambda headers: {**headers, "webhook-signature": headers["webhook-signature"][:-3]},
    lambda headers: {
        **headers,
        "webhook-signature": headers["webhook-signature"].replace("v1,", "v2,"),
    },
    lambda headers: {
        **headers,
        "webhook-signature": another_secret().sign("msg_1", timezone.now(), BODY.decode()),
    },
    lambda headers: {**headers, "webhook-id": "msg_2"},
    lambda headers: {**headers, "webhook-timestamp": "soon"},
    lambda headers: {**headers, "webhook-timestamp": "nan"},
    lambda headers: {**headers, "webhook-timestamp": "1e400"},
    lambda headers: {**headers, "webhook-timestamp": "-1"},
    lambda _: signed(at=timezone.now() - timedelta(minutes=6)),
    lambda _: signed(at=timezone.now() + timedelta(minutes=6)),
]


def test_a_forged_stale_or_future_delivery_is_refused_and_not_stored(shop):
    for spoil in SPOILED:
        assert_refused(shop.webhook(BODY, spoil(signed())))


def test_a_changed_body_is_refused(shop):
    assert_refused(shop.webhook(BODY.replace(b"x", b"y"), signed()))


NOT_STORABLE = [
    b"",
    b"not json",
    b"[]",
    b'"text"',
    b"\xff\xfe{}",
    b"{}",
    b'{"type": 7}',
    b'{"type": "t", "data": NaN}',
    b'{"type": "t", "data": 1e999}',
    b'{"type": "t", "data": "\\u0000"}',
    b'{"type": "t", "data": "\\ud800"}',
    b'{"type": "' + b"t" * 121 + b'"}',
    b'{"type": "t", "data": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"type": "t", "data": ' + b"9" * 5_000 + b"}",
]


def test_a_signed_body_that_cannot_be_stored_is_refused(shop, settings):
    for body in NOT_STORABLE:
        assert_refused(shop.webhook(body, signed_raw(body, settings)))


def test_a_huge_body_is_refused(shop):
    body = json.dumps({"type": "t", "data": "a" * 300_000}).encode()

    assert_refused(shop.webhook(body, signed(body)))


def test_an_endless_id_is_refused(shop):
    assert_refused(shop.webhook(BODY, signed(message_id="m" * 256)))


def test_only_post_is_answered(shop):
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH"):
        answer = requests.request(method, f"{shop.site}/webhooks/sandbox", timeout=10)
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "POST"


def test_the_address_with_a_slash_is_the_same(shop):
    answer = requests.post(
        f"{shop.site}/webhooks/sandbox/", data=BODY, headers=signed(), timeout=10
    )

    assert answer.status_code == 200


def test_providers_not_in_use_are_not_found(shop, settings):
    unknown = requests.post(f"{shop.site}/webhooks/stripe", data=BODY, timeout=10)
    settings.PAYMENT_PROVIDER = "stripe"
    unused = shop.webhook(BODY, signed())

    assert unknown.status_code == 404
    assert unused.status_code == 404
    assert ProviderEvent.objects.count() == 0


@pytest.mark.parametrize(
    "payload",
    [
        {"type": "invoice.finalized.v9", "data": {"reference": "x"}},
        {"type": "checkout.completed"},
        {"type": "checkout.completed", "data": ["a", "list"]},
        {"type": "checkout.completed", "data": {"reference": "not ours"}},
        {
            "type": "subscription.renewed",
            "data": {
                "reference": "01890a5d-ac96-774b-bcce-b302099a8057",
                "subscription_id": "sub_unknown",
            },
        },
    ],
)
def test_what_is_not_ours_or_not_known_is_kept_and_ignored(shop, payload):
    body = json.dumps(payload).encode()
    shop.webhook(body, signed(body))

    shop.process()

    event = ProviderEvent.objects.get()
    assert event.ignored
    assert event.processed_at is not None
    assert Checkout.objects.count() == 0


def test_a_failing_delivery_is_tried_less_and_less_often_then_put_aside(shop):
    row = shop.start(make_account())
    shop.pay(row)
    shop.deliver()
    SandboxOrder.objects.filter(pk=row.provider_session_id).delete()
    event = ProviderEvent.objects.get()
    now = event.received_at
    waits = []

    while not event.dead_at:
        with pytest.raises(ProviderUnavailable):
            inbox.process(event.pk, now)
        event.refresh_from_db()
        waits.append((event.next_attempt_at - now).total_seconds())
        assert not inbox.waiting(event.next_attempt_at - timedelta(seconds=1)).exists()
        now = event.next_attempt_at

    assert waits == [10, 30, 120, 600, 3600, 14400, 43200]
    assert "knows no" in event.error
    assert not inbox.waiting(now + timedelta(days=9)).exists()


def test_a_dead_delivery_replayed_does_what_it_should_have_done(shop):
    account = make_account()
    row = shop.start(account)
    shop.pay(row)
    shop.deliver()
    event = ProviderEvent.objects.get()
    ProviderEvent.objects.update(dead_at=timezone.now(), attempts=7, error="ProviderUnavailable")

    inbox.replay(event.pk, timezone.now())
    shop.process()

    event.refresh_from_db()
    assert (event.dead_at, event.error) == (None, "")
    assert event.processed_at is not None
    assert account.subscriptions.count() == 1


def test_a_worker_killed_in_an_attempt_has_used_it_up_and_beat_tries_again(shop):
    account = make_account()
    shop.pay(shop.start(account))
    shop.deliver()
    event = ProviderEvent.objects.get()
    now = timezone.now()
    ProviderEvent.objects.update(attempts=1, next_attempt_at=now + timedelta(seconds=10))

    inbox.process(event.pk, now)
    too_early = account.subscriptions.count()
    later = now + timedelta(seconds=11)
    for event_id in inbox.waiting(later).values_list("pk", flat=True):
        inbox.process(event_id, later)

    assert too_early == 0
    assert account.subscriptions.count() == 1
    event.refresh_from_db()
    assert event.attempts == 2


def test_a_delivery_whose_worker_dies_every_time_is_put_aside(shop):
    shop.webhook(BODY, signed())
    ProviderEvent.objects.update(attempts=7, next_attempt_at=timezone.now())
    event = ProviderEvent.objects.get()

    inbox.process(event.pk, timezone.now())

    event.refresh_from_db()
    assert event.dead_at is not None


def test_what_fails_in_the_middle_leaves_neither_effect_nor_mark(shop):
    account = make_account()
    shop.pay(shop.start(account))
    shop.deliver()
    event = ProviderEvent.objects.get()
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no history today'; END $$;"
            "CREATE TRIGGER refuse BEFORE INSERT ON billing_billingevent "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    try:
        with pytest.raises(ProgrammingError, match="no history today"):
            inbox.process(event.pk, timezone.now())
        after_failure = (account.subscriptions.count(), account.keys.count(), waiting_events())
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION refuse() CASCADE")
    inbox.process(event.pk, timezone.now() + timedelta(seconds=11))

    assert after_failure == (0, 0, 1)
    assert (account.subscriptions.count(), account.keys.count(), waiting_events()) == (1, 1, 0)


def test_a_webhook_is_sent_again_until_it_is_answered(shop, settings):
    shop.pay(shop.start(make_account()))
    settings.SITE_URL = "http://127.0.0.1:9"

    unanswered = shop.deliver()
    delivery = SandboxDelivery.objects.get()
    wait = (delivery.next_attempt_at - timezone.now()).total_seconds()
    settings.SITE_URL = shop.site
    SandboxDelivery.objects.update(next_attempt_at=timezone.now())
    answered = shop.deliver()

    assert unanswered == [None]
    assert 0 < wait <= 2
    assert answered == [200]
    delivery.refresh_from_db()
    assert (delivery.attempts, delivery.next_attempt_at) == (2, None)
