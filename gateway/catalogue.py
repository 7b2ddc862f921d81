"""What is on sale: puts an API's document, operations and upstream into rows.

Owns the rules of those rows that a form or a document must pass. Reads no document itself
(`gateway.openapi` does) and publishes nothing: it bumps the routes of the caller's transaction.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from django.db import transaction
from django.db.models import QuerySet

from gateway import identity, openapi, routes
from gateway.models import Api, Meter, Operation
from keys import sealed

# Fields of one hop, and those that the gateway writes itself (RFC 9110 §7.6.1 and §7.2).
RESERVED_HEADERS = {
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")


class InvalidTerms(Exception):
    """What was given for an API can't be used; the message is a sentence for the seller."""


def on_sale() -> QuerySet[Api]:
    """The APIs that everyone sees, the first of which the site shows as its example.

    Documents may be megabytes: each is fetched when it is asked for.
    """
    return Api.objects.filter(listed=True, enabled=True).defer("document")


def upstream_url(text: str) -> str:
    """The address of a backend without its trailing slash. Raises `InvalidTerms`.

    Any host name goes, also one without a dot, as containers have; whether a private address
    may be connected to is decided when it is, by `Api.backend_networks`.
    """
    stripped = text.strip()
    if not stripped.isascii() or re.search(r"[\x00-\x20\\]", stripped):
        raise InvalidTerms("The upstream has a character that an address can't have.")
    try:
        parts = urlsplit(stripped)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InvalidTerms("The upstream is not an address such as http://10.0.0.5:8000.") from None
    if parts.scheme not in ("http", "https") or not host:
        raise InvalidTerms("The upstream must start with http:// or https:// and name a host.")
    if parts.username is not None or parts.password is not None:
        raise InvalidTerms(
            "The upstream has a name or password in it; send credentials as upstream headers."
        )
    if parts.query or parts.fragment or stripped.endswith(("?", "#")):
        raise InvalidTerms("The upstream can have a base path and no query or fragment.")
    return stripped.rstrip("/")


def parse_headers(text: str) -> dict[str, str]:
    """Lines of `Name: value` as a mapping. Raises `InvalidTerms`, quoting names and no value."""
    headers: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not HEADER_NAME.fullmatch(name):
            raise InvalidTerms(f"Line {number} is not a header such as X-Secret: value.")
        if name.lower() in RESERVED_HEADERS:
            raise InvalidTerms(f"{name} is set by the gateway itself.")
        if not HEADER_VALUE.fullmatch(value):
            raise InvalidTerms(f"The value of {name} is empty or has a character it can't have.")
        if name.lower() in {known.lower() for known in headers}:
            raise InvalidTerms(f"{name} is given twice.")
        headers[name] = value
    return headers


def seal_headers(headers: Mapping[str, str]) -> str:
    """Headers as `Api.upstream_headers_sealed` keeps them."""
    return sealed.seal(json.dumps(dict(headers))) if headers else ""


def sealed_header_names(api: Api) -> list[str]:
    """The names, without values, of the headers that upstream requests of this API carry."""
    if not api.upstream_headers_sealed:
        return []
    return list(json.loads(sealed.unseal(api.upstream_headers_sealed)))


@transaction.atomic
def draw_identity_secret(api: Api) -> identity.Secret:
    """A new secret for the tokens of this API's calls, to be shown now and never again.

    The first one signs from the next call on. Any other waits, so that backends can be told of it,
    until `use_next_identity_secret`; one that was waiting already is thrown away.
    """
    drawn = identity.draw()
    _change_identity(api, lambda held: [*held[:1], drawn])
    return drawn


@transaction.atomic
def use_next_identity_secret(api: Api) -> None:
    """Signs with the secret that waits, if there is one, and forgets the one before."""
    _change_identity(api, lambda held: held[-1:])


@transaction.atomic
def remove_identity_secrets(api: Api) -> None:
    """Sends calls of this API without a token from now on."""
    Api.objects.filter(pk=api.pk).update(identity_sealed="")
    routes.bump()


def _change_identity(
    api: Api, change: Callable[[list[identity.Secret]], list[identity.Secret]]
) -> None:
    locked = Api.objects.select_for_update().only("identity_sealed").get(pk=api.pk)
    locked.identity_sealed = identity.seal(change(identity.unseal(locked.identity_sealed)))
    locked.save(update_fields=["identity_sealed"])
    routes.bump()


def make_meters(names: Iterable[str]) -> None:
    """Makes the meters that don't exist yet, each labelled by its name."""
    Meter.objects.bulk_create(
        [Meter(name=name, label=name) for name in sorted(set(names))], ignore_conflicts=True
    )


@transaction.atomic
def apply_document(api: Api, document: openapi.Document) -> openapi.Preview:
    """Makes the saved `api` offer exactly the operations of `document`; says what changed.

    Where the document states what an operation costs or needs (`x-keystile`) that holds; where it
    doesn't, what staff set for the operation is kept. Usage recorded for an operation that is
    removed stays.
    """
    Api.objects.select_for_update().get(pk=api.pk)
    on_sale = {(row.method, row.path_template): row for row in api.operations.all()}
    changes = openapi.preview(document, on_sale)

    make_meters(
        [openapi.CALLS]
        + [meter for spec in document.operations for meter in (*spec.weights, *spec.max_units)]
    )
    for gone in changes.removed:
        on_sale[gone].delete()
    for spec in changes.kept:
        row = on_sale[(spec.method, spec.path_template)]
        row.summary = spec.summary
        if spec.weights or spec.max_units:
            row.weights, row.max_units = spec.weights, spec.max_units
        row.scope = spec.scope or row.scope
        row.save(update_fields=["summary", "weights", "max_units", "scope"])
    Operation.objects.bulk_create(
        Operation(
            api=api,
            method=spec.method,
            path_template=spec.path_template,
            summary=spec.summary,
            weights=spec.weights,
            max_units=spec.max_units,
            scope=spec.scope,
        )
        for spec in changes.added
    )
    api.document = document.raw
    api.save(update_fields=["document"])
    routes.bump()
    return changes
