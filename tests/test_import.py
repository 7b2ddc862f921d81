"""An OpenAPI document becomes an API on sale in two steps, and nothing is lost silently."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from gateway.models import Api, Meter, Routes
from keys import records
from portal.demo.seed import HOLIDAYS_DOCUMENT
from portal.models import User
from tests.factories import make_api

IMPORT = reverse("admin:gateway_api_import")


def document(*paths, **more):
    operation = {"responses": {"200": {"description": "Fine."}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Weather API", "version": "1.0"},
        "paths": {path: {"get": {"summary": f"Ask {path}", **operation}} for path in paths},
        **more,
    }


def upload(content):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return SimpleUploadedFile("openapi.json", text)


@pytest.fixture
def desk(db, redis_clean, client):
    client.force_login(User.objects.create_superuser("staff@example.com", "a long enough one"))
    return client


def choose(desk, content, address=IMPORT, **fields):
    """Step 1, on to the preview."""
    form = {"upstream_url": "http://backend:8000", **fields}
    return desk.post(address, {**form, "document": upload(content)}, follow=True)


def errors_of(answer):
    return " ".join(str(error) for each in answer.context["form"].errors.values() for error in each)


def test_a_document_becomes_an_api_after_a_preview(desk):
    holidays = HOLIDAYS_DOCUMENT.read_bytes()

    preview = choose(
        desk,
        holidays,
        upstream_url="http://127.0.0.1:9",
        allow_private_upstream="on",
        slug="days",
    )
    text = preview.content.decode()
    assert "GET /v1/next/{country}" in text
    assert "2 calls" in text
    assert "up to 1,000 rows" in text
    assert not Api.objects.exists(), "a preview changes nothing"

    applied = desk.post(preview.redirect_chain[-1][0], follow=True)
    api = Api.objects.get()
    assert (api.slug, api.name, api.upstream_url) == ("days", "Holidays API", "http://127.0.0.1:9")
    assert api.operations.count() == 9
    assert api.operations.get(path_template="/v1/holidays/batch").max_units == {"rows": 1000}
    assert set(Meter.objects.values_list("name", flat=True)) == {"calls", "rows"}
    assert api.document["info"]["title"] == "Holidays API"
    assert "9 added, 0 kept, 0 removed" in applied.content.decode()


@pytest.mark.django_db(transaction=True)
def test_an_import_is_published_to_the_gateway(desk):
    preview = choose(desk, document("/now"))

    desk.post(preview.redirect_chain[-1][0])

    routes = Routes.objects.get()
    assert routes.published_version == routes.version
    assert b'"/now"' in records.connection().hget(records.routes_name(0), "blob")


def test_a_second_import_shows_and_does_what_changes(desk):
    choose(desk, document("/now", "/old"))
    desk.post(choose(desk, document("/now", "/old")).redirect_chain[-1][0])
    api = Api.objects.get()
    api.operations.filter(path_template="/now").update(weights={"calls": 5})
    again = f"{IMPORT}?api={api.pk}"

    preview = choose(desk, document("/now", "/new"), again)
    context = preview.context
    assert context["removed"] == (("GET", "/old"),)
    assert [spec.path_template for spec, _ in context["added"]] == ["/new"]
    assert [spec.path_template for spec, _ in context["kept"]] == ["/now"]

    desk.post(preview.redirect_chain[-1][0])
    assert dict(api.operations.values_list("path_template", "weights")) == {
        "/now": {"calls": 5},
        "/new": {},
    }


def test_what_the_document_leaves_out_is_filled_in(desk):
    described = document("/now", servers=[{"url": "https://api.example.com/base/"}])

    preview = choose(desk, described, upstream_url="")
    desk.post(preview.redirect_chain[-1][0])

    api = Api.objects.get()
    assert (api.slug, api.upstream_url) == ("weather-api", "https://api.example.com/base")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "file is empty"),
        (b"just words", "not an OpenAPI document"),
        (b"\xff\xfe", "not text in UTF-8"),
        (b"{", "not valid JSON"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b" + b", *b" * 200_000 + b"]", "values"),
        (b"[" * 100_000, "levels"),
        ({"swagger": "2.0"}, "Swagger 2.0"),
        ({"openapi": "3.1.0", "info": {"title": "T", "version": "1"}, "paths": {}}, "no operation"),
        (document("/../admin"), "segment"),
        (document("/x", components={"schemas": {"A": {"$ref": "file:///etc/passwd"}}}), "another"),
        (b"x" * 6_000_000, "larger than 5 MB"),
    ],
)
def test_a_bad_document_is_refused_with_a_sentence_and_the_form_is_kept(content, sentence, desk):
    answer = choose(desk, content, name="Kept name", slug="kept-slug")

    assert answer.status_code == 200
    assert sentence in errors_of(answer)
    page = answer.content.decode()
    assert 'value="Kept name"' in page
    assert 'value="kept-slug"' in page
    assert not Api.objects.exists()


def test_a_good_document_need_not_be_chosen_again_when_a_field_is_wrong(desk):
    make_api(slug="taken")

    refused = choose(desk, document("/now"), slug="taken")
    assert "There is an API “taken” already" in errors_of(refused)
    page = refused.content.decode()
    assert "Weather API 1.0" in page
    assert 'value="taken"' in page
    assert 'value="http://backend:8000"' in page

    kept = refused.context["form"]["kept"].value()
    fields = {"kept": kept, "slug": "weather", "upstream_url": "http://backend:8000"}
    preview = desk.post(IMPORT, fields, follow=True)
    desk.post(preview.redirect_chain[-1][0])
    assert Api.objects.filter(slug="weather").exists()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"upstream_url": "file:///etc/passwd"}, "must start with http"),
        ({"upstream_url": ""}, "names no server"),
        ({"upstream_url": "http://127.0.0.1:9"}, "private address"),
        ({"upstream_url": "http://[::1]:9"}, "private address"),
        ({"upstream_url": "http://localhost:9"}, "private address"),
        ({"slug": "no spaces"}, "valid “slug”"),
        ({"document_url": "https://example.com/openapi.json"}, "not both"),
    ],
)
def test_a_wrong_field_is_named(fields, sentence, desk):
    assert sentence in errors_of(choose(desk, document("/now"), **fields))


def test_a_private_address_is_fetched_only_where_the_backend_may_have_one(desk, live_server):
    address = {"document_url": f"{live_server.url}/healthz"}

    refused = desk.post(IMPORT, address)
    allowed = desk.post(IMPORT, {**address, "allow_private_upstream": "on"})

    assert "private network" in errors_of(refused)
    assert "not an OpenAPI document" in errors_of(allowed)


def test_markup_in_a_document_stays_text(desk):
    described = document("/now")
    described["paths"]["/now"]["get"]["summary"] = "<script>alert(1)</script>"

    preview = choose(desk, described, name="<b>bold</b>")

    assert "<script>alert" not in preview.content.decode()
    assert "<b>bold" not in preview.content.decode()


def test_what_was_put_aside_comes_back_to_its_own_user_only(desk):
    preview = choose(desk, document("/now"))
    address = preview.redirect_chain[-1][0]
    desk.force_login(User.objects.create_superuser("other@example.com", "a long enough one"))

    answer = desk.post(address, follow=True)

    assert answer.redirect_chain[-1][0] == IMPORT
    assert not Api.objects.exists()


def test_a_document_that_is_applied_twice_makes_one_api(desk):
    preview = choose(desk, document("/now"))
    address = preview.redirect_chain[-1][0]

    desk.post(address)
    desk.post(address)

    assert Api.objects.count() == 1


def test_a_document_keeps_the_order_of_its_keys(desk):
    written = {"z": 1, "a": {"y": 2, "b": 3}}
    desk.post(choose(desk, document("/now", **{"x-example": written})).redirect_chain[-1][0])

    kept = Api.objects.get().document["x-example"]

    assert json.dumps(kept) == json.dumps(written)
