"""The documentation says what the gateway does."""

import json

import pytest

from gateway import catalogue as goods
from gateway import openapi, problems
from portal import samples
from portal.demo.holidays_api import DOCUMENT
from tests.factories import make_account, make_api
from tests.markup import Page, faults

pytestmark = pytest.mark.django_db


@pytest.fixture
def api(db):
    api = make_api()
    goods.apply_document(api, openapi.read(DOCUMENT))
    return api


def test_every_error_of_the_gateway_has_its_anchor_and_sentence(client):
    page = Page(client.get("/docs/errors").content.decode())

    for code, (status, title, sentence) in problems.PROBLEMS.items():
        section = page.by_id(code)
        assert str(status) in section.text
        assert title in section.text
        assert sentence in section.text


def test_an_errors_docs_link_leads_to_its_explanation(client, settings):
    problem = json.loads(problems.Refusal("quota_exceeded").body())

    path, _, anchor = problem["type"].removeprefix(settings.SITE_URL).partition("#")

    assert Page(client.get(path).content.decode()).by_id(anchor)


def test_the_quickstart_shows_one_call_in_three_languages(client, api):
    page = Page(client.get("/docs/").content.decode())

    labels = [element.text for element in page.all("label")]
    assert labels == ["curl", "Python", "JavaScript"]
    programs = [element.text for element in page.all("pre")][1:4]
    assert all("/gateway/holidays/v1/" in program for program in programs)
    assert all("KEYSTILE_KEY" in program for program in programs)


def test_the_first_call_shows_a_parameter_and_its_answer(api):
    sample = samples.first_call(api)

    assert "/gateway/holidays/v1/next/" in sample.curl
    assert json.loads(sample.answer)["country"]


def test_the_first_call_is_one_that_says_what_it_answers(api):
    api.document = {
        "info": {"title": "Plain", "version": "1"},
        "paths": {
            "/v1/countries": {"get": {}},
            "/v1/next/{country}": {"get": {"deprecated": True}},
            "/v1/today/{country}": {"get": {"responses": {"200": {"$ref": "#/answers/today"}}}},
        },
        "answers": {
            "today": {"description": "Today.", "content": {"text/plain": {"example": "A holiday"}}}
        },
    }
    for path in api.document["paths"]:
        api.operations.get_or_create(method="GET", path_template=path)

    sample = samples.first_call(api)

    assert (sample.operation.summary, sample.answer) == ("GET /v1/today/{country}", "A holiday")


def test_a_pasted_command_carries_the_key(api):
    assert '"Authorization: Bearer ks_test_secret"' in samples.curl("ks_test_secret")


def test_a_command_is_offered_for_an_api_without_a_document(db):
    make_api("plain")

    assert "/gateway/plain/" in samples.curl()


def test_members_make_a_test_key_where_they_read(client, api):
    assert "Create a test key" not in client.get("/docs/").content.decode()
    client.force_login(make_account().members.get())

    page = Page(client.get("/docs/").content.decode())

    assert page.one("a", href="/dashboard/keys/create/?mode=test").text == "Create a test key"


def test_the_reference_of_what_is_on_sale_can_be_read(client, api):
    response = client.get("/docs/api/holidays/")

    assert "/v1/next/{country}" in response.content.decode()
    assert faults(response.content.decode()) == []


@pytest.mark.parametrize("change", [{"listed": False}, {"enabled": False}])
def test_an_api_that_is_not_shown_has_no_docs(client, api, change):
    type(api).objects.update(**change)

    assert client.get("/docs/api/holidays/").status_code == 404
    assert "/docs/api/holidays/" not in client.get("/docs/").content.decode()


def test_the_docs_say_what_is_never_billed(client):
    text = " ".join(Page(client.get("/docs/limits").content.decode()).one("article").text.split())

    assert "calls that the gateway refused" in text
    assert "every 5xx" in text
    assert "408 and 429" in text
    assert "calls that you ended before their answer began" in text
    assert "calls with a test key" in text
