"""A key found in public is dealt with once, as its account chose, whoever reports it."""

import base64
import json
import threading
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from keys import issuance, leaks, publish, records, service_tokens, tokens
from keys.models import ApiKey, LeakPolicy
from portal import announcements
from tests.factories import make_account, make_api, make_member
from tests.markup import faults
from tests.test_publish import redis_away
from tests.traffic import entitle, make_key, terms

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis_clean")]

FIND = leaks.Find("a test", "https://example.com/leak")
THROTTLE = LeakPolicy.Act.THROTTLE


@pytest.fixture
def account():
    make_api()
    account = make_account()
    entitle(account, terms(rate=20, burst=40))
    return account


@pytest.fixture
def leaked(account):
    """A key and the text of it that somebody found."""
    return make_key(account)


def record(key):
    return records.connection().hgetall(records.key_name(0, key.digest))


def treat(text, **find):
    return leaks.treat(text, leaks.Find(**find) if find else FIND, timezone.now())


def test_a_leaked_key_is_revoked_at_once_unless_the_account_chose_otherwise(leaked):
    key, text = leaked

    assert treat(text)

    key.refresh_from_db()
    assert (key.state, key.leak_source, key.leak_url) == ("revoked", FIND.source, FIND.url)
    assert key.leaked_at == key.revoked_at
    assert record(key)[b"state"] == b"revoked"
    assert [event.kind for event in key.events.all()] == ["leaked", "created"]


def test_a_key_is_slowed_down_and_a_successor_prepared_where_the_account_chose_that(
    account, leaked
):
    key, text = leaked
    issuance.change(
        key.pk,
        account,
        {"allowed_networks": ["10.0.0.0/8"], "read_only": True},
        actor=None,
        address=None,
        now=timezone.now(),
    )
    leaks.choose(account.pk, THROTTLE)

    treat(text)

    key.refresh_from_db()
    successor = key.successors.get()
    assert (key.state, key.rate_per_second, key.burst) == ("active", Decimal("0.1"), 1)
    assert (successor.state, successor.origin, successor.name) == ("unclaimed", "leaked", key.name)
    assert (successor.allowed_networks, successor.read_only) == (["10.0.0.0/8"], True)
    assert successor.rate_per_second is None
    secret = issuance.claim(successor.pk, account, actor=None, address=None, now=timezone.now())
    assert tokens.parse(secret)


@pytest.mark.parametrize("act", LeakPolicy.Act)
def test_a_key_reported_again_stays_as_it_is(account, leaked, act):
    key, text = leaked
    leaks.choose(account.pk, act)
    treat(text)
    key.refresh_from_db()
    before = ApiKey.objects.filter(pk=key.pk).values().get()

    assert treat(text, source="somebody else")

    assert ApiKey.objects.filter(pk=key.pk).values().get() == before
    assert account.keys.count() == (2 if act == THROTTLE else 1)
    assert key.events.filter(kind="leaked").count() == 1


def test_a_leaked_key_is_neither_changed_nor_rotated_and_can_be_revoked(account, leaked):
    key, text = leaked
    leaks.choose(account.pk, THROTTLE)
    treat(text)
    by = {"actor": None, "address": None, "now": timezone.now()}

    with pytest.raises(issuance.KeyNotActive):
        issuance.change(key.pk, account, {"rate_per_second": None}, **by)
    with pytest.raises(issuance.KeyNotActive):
        issuance.rotate(key.pk, account, overlap=timedelta(hours=1), **by)
    assert issuance.revoke(key.pk, account, **by).confirmed


def test_a_successor_takes_the_leaked_key_s_place_and_no_other(account):
    keys = [make_key(account) for _ in range(10)]
    leaks.choose(account.pk, THROTTLE)

    for _, text in keys[:3]:
        treat(text)

    assert account.keys.filter(leaked_at=None).count() == 10
    with pytest.raises(issuance.KeyLimitReached):
        make_key(account)


def test_a_key_that_was_rotated_already_gets_no_second_successor(account, leaked):
    key, text = leaked
    now = timezone.now()
    issuance.rotate(key.pk, account, overlap=timedelta(hours=1), actor=None, address=None, now=now)
    leaks.choose(account.pk, THROTTLE)

    treat(text)

    assert key.successors.get().origin == ApiKey.Origin.ROTATED


def test_a_leak_that_cannot_be_published_arrives_later(leaked):
    key, text = leaked

    with redis_away():
        assert treat(text)
    assert record(key)[b"state"] == b"active"

    publish.lagging(timezone.now())
    assert record(key)[b"state"] == b"revoked"


def test_a_stranger_s_words_are_kept_harmless(leaked):
    key, text = leaked

    treat(text, source="a\0b\ud800" + "x" * 90, url="javascript:alert(1)")

    key.refresh_from_db()
    assert key.leak_source == "ab" + "x" * 38
    assert key.leak_url == ""


def test_keys_are_found_in_a_text_each_once():
    one, two = tokens.draw("live", 0).text, tokens.draw("test", 0).text
    mistyped = one[:-1] + ("a" if one[-1] != "a" else "b")

    assert leaks.secrets_in(f"KEY={one}\n{two};{one} {mistyped}") == [one, two]


# ------------------------------------------------------------------ service tokens


@pytest.fixture
def token(account):
    """A service token of the account and its text."""
    return make_token(account)


def make_token(account, scopes=("keys:read",)):
    return service_tokens.create(
        account, name="CI", scopes=scopes, expires_at=None, actor=None, address=None,
        now=timezone.now(),
    )  # fmt: skip


def test_a_leaked_token_is_revoked_at_once_whatever_is_done_with_keys(account, token):
    row, text = token
    leaks.choose(account.pk, THROTTLE)

    assert treat(text)

    assert service_tokens.find(text, timezone.now()) is None
    held = records.connection().hgetall(records.token_name(0, row.digest))
    assert held[b"state"] == b"revoked"
    leak, _ = row.events.all()
    assert (leak.kind, leak.actor) == ("leaked", None)
    assert leak.details == ["Found: a test. Address: https://example.com/leak"]


def test_a_token_reported_again_or_revoked_before_stays_as_it_is(account, token):
    row, text = token
    service_tokens.revoke(row, actor=None, address=None, now=timezone.now())
    other, other_text = make_token(account)
    treat(other_text)

    assert treat(text)
    assert treat(other_text, source="somebody else")

    assert [event.kind for event in row.events.all()] == ["revoked", "created"]
    assert [event.kind for event in other.events.all()] == ["leaked", "created"]


def test_no_token_of_this_text_is_treated(token):
    assert not treat(service_tokens.draw())
    assert token[0].events.count() == 1


def test_tokens_are_found_in_a_text_beside_keys(token):
    key, text = tokens.draw("live", 0).text, token[1]
    mistyped = text[:-1] + ("a" if text[-1] != "a" else "b")

    assert leaks.secrets_in(f"export T='{text}' K={key} {mistyped}") == [text, key]


def test_both_doors_of_reports_take_tokens(github, account, token):
    other, other_text = make_token(account)

    labels = github.report([entry(token[1]), entry(service_tokens.draw())]).json()
    Client().post(reverse("leak_report"), {"found": f"TOKEN={other_text}"})

    assert [found["label"] for found in labels] == ["true_positive", "false_positive"]
    for row in (token[0], other):
        row.refresh_from_db()
        assert row.revoked_at is not None


def test_an_account_is_told_of_its_token_and_staff_of_the_seller_s(
    account, token, mailoutbox, settings
):
    settings.STAFF_EMAIL = "staff@seller.example"
    seller_s, seller_text = make_token(None, ("verify",))
    viewer = make_member(account, "viewer")
    treat(token[1])
    treat(seller_text)

    announcements.send_waiting(timezone.now())
    announcements.send_waiting(timezone.now())

    mails = [mail for mail in mailoutbox if "oken" in mail.subject]
    assert [mail.subject for mail in mails] == ["Service token “CI” has leaked"] * 2
    assert [mail.to for mail in mails] == [
        [account.members.order_by("pk")[0].email],
        ["staff@seller.example"],
    ]
    assert viewer.email not in str([mail.to for mail in mails])
    for mail, text in zip(mails, (token[1], seller_text), strict=True):
        assert text not in mail.body + mail.alternatives[0].content
        assert FIND.url not in mail.body
    assert reverse("admin:keys_servicetoken_change", args=[seller_s.pk]) in mails[1].body


def test_a_leak_without_a_staff_address_is_told_to_nobody(mailoutbox, settings):
    settings.STAFF_EMAIL = ""
    _, text = make_token(None, ("verify",))
    treat(text)

    announcements.send_waiting(timezone.now())

    assert mailoutbox == []


def test_the_tokens_page_tells_where_it_was_found(account, token):
    treat(token[1], source="<b>x</b>", url="https://evil.example/<script>")

    html = signed_in(account.members.get()).get(reverse("tokens")).content.decode()

    assert "Leaked and revoked" in html
    assert "https://evil.example/&lt;script&gt;" in html
    assert 'href="https://evil.example' not in html
    assert faults(html) == []


# ------------------------------------------------------------------ what people are told


def test_whoever_looks_after_keys_is_told_with_the_way_to_the_successor(
    account, leaked, mailoutbox
):
    key, text = leaked
    announcements.send_waiting(timezone.now())
    mailoutbox.clear()
    leaks.choose(account.pk, THROTTLE)
    treat(text)

    announcements.send_waiting(timezone.now())

    (mail,) = mailoutbox
    assert mail.subject == "Key “key” has leaked"
    assert FIND.url not in mail.body  # a stranger's address, which mail programs make a link
    assert reverse("key_page", args=[key.pk]) in mail.body
    assert "/claim/" in mail.body
    assert text not in mail.body + mail.alternatives[0].content


def test_a_revoked_key_s_mail_has_no_claim_link(leaked, mailoutbox):
    treat(leaked[1])

    announcements.send_waiting(timezone.now())

    assert "/claim/" not in mailoutbox[-1].body
    assert "We revoked it at once" in mailoutbox[-1].body


def signed_in(user):
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def test_the_keys_page_tells_of_the_leak_and_links_no_stranger_s_address(account, leaked):
    key, text = leaked
    leaks.choose(account.pk, THROTTLE)
    treat(text, source="<b>x</b>", url="https://evil.example/<script>")
    browser = signed_in(account.members.get())

    for page in (reverse("keys"), reverse("key_page", args=[key.pk])):
        html = browser.get(page).content.decode()
        assert "has leaked." in html
        assert "https://evil.example/&lt;script&gt;" in html
        assert 'href="https://evil.example' not in html
        assert "&lt;b&gt;x" in html
        assert faults(html) == []


def test_a_member_chooses_what_is_done_and_a_viewer_does_not(account):
    page = reverse("leak_policy")
    viewer = signed_in(make_member(account, "viewer"))

    assert viewer.post(page, {"on_leak": "throttle"}).status_code == 403
    assert leaks.policy_of(account.pk) == LeakPolicy.Act.REVOKE
    signed_in(account.members.order_by("pk")[0]).post(page, {"on_leak": "throttle"})
    assert leaks.policy_of(account.pk) == THROTTLE
    signed_in(make_account().members.get()).post(page, {"on_leak": "revoke"})
    assert leaks.policy_of(account.pk) == THROTTLE


# ------------------------------------------------------------------ the public page


def test_everybody_is_thanked_alike(leaked):
    key, text = leaked
    page = reverse("leak_report")

    answers = [
        Client().post(page, {"found": found}, follow=True)
        for found in (f"x {text} y", tokens.draw("live", 0).text, "nothing at all")
    ]

    key.refresh_from_db()
    assert key.state == "revoked"
    assert len({(a.status_code, a.content) for a in answers}) == 1
    assert text not in answers[0].content.decode()


def test_the_report_page_is_sound_guarded_and_limited(leaked):
    page = reverse("leak_report")
    guarded = Client(enforce_csrf_checks=True)

    assert faults(Client().get(page).content.decode()) == []
    assert guarded.post(page, {"found": leaked[1]}).status_code == 403
    assert Client().post(page, {"found": "x" * 20_001}).status_code == 422
    for _ in range(29):
        Client().post(page, {"found": "x"})
    limited = Client().post(page, {"found": leaked[1]})
    assert (limited.status_code, int(limited["Retry-After"]) > 0) == (429, True)
    leaked[0].refresh_from_db()
    assert leaked[0].state == "active"


# ------------------------------------------------------------------ GitHub


class GitHub:
    """Signs as GitHub does; its public keys are served on loopback."""

    def __init__(self):
        self.private = ec.generate_private_key(ec.SECP256R1())
        pem = self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        self.answer = json.dumps(
            {"public_keys": [{"key_identifier": "k1", "key": pem.decode(), "is_current": True}]}
        ).encode()
        self.fetched = 0

    def report(self, body, *, key_id="k1", by=None, signed=None):
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        signature = (by or self.private).sign(signed or raw, ec.ECDSA(SHA256()))
        return Client().generic(
            "POST",
            "/leaks/github",
            raw,
            "application/json",
            headers={
                "Github-Public-Key-Identifier": key_id,
                "Github-Public-Key-Signature": base64.b64encode(signature).decode(),
            },
        )


@contextmanager
def serving(github):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            github.fetched += 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(github.answer)))
            self.end_headers()
            self.wfile.write(github.answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/keys"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def github(settings):
    cache.clear()
    github = GitHub()
    with serving(github) as url:
        settings.GITHUB_META_URL = url
        yield github


def entry(token, **more):
    return {"token": token, "type": "keystile", "url": FIND.url, "source": "content", **more}


def test_github_s_report_is_treated_and_answered_with_labels(github, leaked):
    key, text = leaked
    stranger = tokens.draw("live", 0).text

    answer = github.report([entry(text), entry(stranger), entry("ks_live_nonsense")])

    key.refresh_from_db()
    assert answer.status_code == 200
    assert [(found["token_raw"], found["label"]) for found in answer.json()] == [
        (text, "true_positive"),
        (stranger, "false_positive"),
        ("ks_live_nonsense", "false_positive"),
    ]
    assert (key.state, key.leak_source, key.leak_url) == ("revoked", "GitHub content", FIND.url)


def test_a_report_that_github_did_not_sign_changes_nothing(github, leaked):
    key, text = leaked
    other = ec.generate_private_key(ec.SECP256R1())
    body = [entry(text)]

    refused = [
        github.report(body, by=other),
        github.report(body, signed=b"another body"),
        github.report(body, key_id="k2"),
        Client().post("/leaks/github", body, content_type="application/json"),
        Client().post(
            "/leaks/github",
            body,
            content_type="application/json",
            headers={
                "Github-Public-Key-Identifier": "k1",
                "Github-Public-Key-Signature": "not base64",
            },
        ),
    ]

    key.refresh_from_db()
    assert [answer.status_code for answer in refused] == [403] * 5
    assert key.state == "active"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b'[{"token": 1}]',
        b"[" * 50_000,
        json.dumps([entry("x")] * 1001).encode(),
    ],
)
def test_a_signed_body_that_is_no_report_is_refused(github, body):
    assert github.report(body).status_code == 400


def test_entries_with_odd_fields_are_taken_for_their_token(github, leaked):
    key, text = leaked

    answer = github.report([entry(text, url=7, source="\0\ud800", type=None)])

    key.refresh_from_db()
    assert answer.json()[0]["token_type"] == ""
    assert (key.state, key.leak_source, key.leak_url) == ("revoked", "GitHub ", "")


def test_github_s_keys_are_kept_and_strangers_ids_ask_once_a_minute(github):
    for key_id in ("k1", "k1", "k2", "k3", "k1"):
        github.report([], key_id=key_id)

    assert github.fetched == 1


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"public_keys": 1}', b"x" * 300_000, b'{"public_keys": [{}]}']
)
def test_without_github_s_keys_it_is_asked_to_send_again(github, leaked, answer):
    github.answer = answer

    assert github.report([entry(leaked[1])]).status_code == 503
    assert github.report([entry(leaked[1])]).status_code == 503
    assert github.fetched == 1


def test_no_log_line_has_a_key_in_it(github, leaked, caplog):
    caplog.set_level("DEBUG")

    github.report([entry(leaked[1])])
    Client().post(reverse("leak_report"), {"found": leaked[1]})

    assert leaked[1][8:40] not in caplog.text
