"""The demo's mailbox: every mail, shown safely, and only in the demo."""

import os
from datetime import timedelta

import pytest
from django.utils import timezone

from keys import clock
from portal import announcements, mails
from portal.mails import Mail
from tests.factories import make_user
from tests.markup import Page, faults

pytestmark = pytest.mark.django_db


@pytest.fixture
def folder(settings, tmp_path):
    settings.MAILBOX = True
    settings.EMAIL_BACKEND = "portal.demo.mail_files.EmailBackend"
    settings.EMAIL_FILE_PATH = str(tmp_path)
    return tmp_path


def post(subject: str, *, text: str = "Hello", html: str = "<p>Hello</p>") -> None:
    mails.send(Mail(to=["ada@example.com"], subject=subject, text=text, html=html))


def letters(client) -> list[str]:
    page = Page(client.get("/demo/mail/").content.decode())
    return [link.attributes["href"] for link in page.all("a") if "/demo/mail/2" in str(link)]


def test_mails_are_listed_newest_first(client, folder):
    for number, subject in enumerate(["First", "Second", "Dritte Ü"]):
        known = set(folder.iterdir())
        post(subject)
        (new,) = set(folder.iterdir()) - known
        os.utime(new, (1000 + number, 1000 + number))

    response = client.get("/demo/mail/")

    shown = Page(response.content.decode())
    assert [element.text for element in shown.all("strong")] == ["Dritte Ü", "Second", "First"]
    assert faults(response.content.decode()) == []


def test_a_mail_is_as_old_as_the_demos_clock_says(client, folder, settings):
    settings.CLOCK_CAN_MOVE = True
    clock.forget()
    clock.move(timedelta(days=40))

    post("Renewed")
    clock.forget()

    (file,) = folder.iterdir()
    assert file.stat().st_mtime > (timezone.now() + timedelta(days=39)).timestamp()


def test_a_link_in_a_mail_is_clickable_and_the_rest_is_text(client, folder):
    post("Hi", text="Go to http://example.com/claim/abc/\n<script>alert(1)</script>")

    page = client.get(letters(client)[0]).content.decode()

    assert Page(page).one("a", href="http://example.com/claim/abc/")
    assert "<script>alert" not in page
    assert faults(page) == []


def test_a_mails_html_runs_and_loads_nothing(client, folder):
    post("Hi", html="<script>alert(1)</script><p>Hello</p>")

    response = client.get(f"{letters(client)[0]}html")

    policy = response["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script-src" not in policy
    assert "<p>Hello</p>" in response.content.decode()


def test_a_real_mail_is_readable(client, folder):
    user = make_user("ada@example.com")
    client.force_login(user)
    client.post("/verify/send/")
    announcements.send_waiting(timezone.now())

    page = client.get(letters(client)[0]).content.decode()

    assert "Your code for" in page
    assert "to ada@example.com" in page


def test_there_is_no_mailbox_outside_the_demo(client, folder, settings):
    post("Secret")
    address = letters(client)[0]
    settings.MAILBOX = False

    assert client.get("/demo/mail/").status_code == 404
    assert client.get(address).status_code == 404
    assert client.get(f"{address}html").status_code == 404
    assert "mailbox" not in client.get("/pricing").content.decode()


def test_only_mails_of_the_folder_are_shown(client, folder):
    (folder / "notes.log").write_text("Subject: not a mail of ours\n\n")

    assert letters(client) == []
    assert client.get("/demo/mail/notes/").status_code == 404
    assert client.get("/demo/mail/..%2Frun/").status_code == 404


def test_an_empty_mailbox_says_what_to_do(client, folder):
    assert "No mail yet" in client.get("/demo/mail/").content.decode()
