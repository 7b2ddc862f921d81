"""What the gateway routes by: APIs and operations, from rows to the table in each process.

Two halves. `bump` and `republish` run where Postgres is: they put all rows into one blob under
a version. `Table` is that blob compiled, in a gateway process, which asks Redis only.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

import structlog
from django.db.models import F

from gateway import addresses, identity
from gateway.cors import Origins
from gateway.intake import ENCODED_SLASH
from gateway.link import Template
from gateway.models import Api, Routes
from gateway.problems import Refusal, lines_of
from keys import records, sealed
from keys.publish import arrives, on_commit

log = structlog.get_logger(__name__)

DEFAULT_WEIGHTS = {"calls": 1}
OTHER = "other"
"""The operation of a call that matches none, where the API forwards such calls."""


# ------------------------------------------------------------------ publishing


def bump() -> None:
    """Says, inside the transaction that changed APIs or operations, that routes have changed.

    Publishes after commit; if Redis is away then, beat does it (`republish`).
    """
    Routes.objects.get_or_create(pk=1)
    Routes.objects.filter(pk=1).update(version=F("version") + 1)
    on_commit(publish)


def republish() -> bool:
    """Publishes if the newest version has not arrived; whether it did. Raises `RedisError`."""
    routes, _ = Routes.objects.get_or_create(pk=1)
    if routes.published_version >= routes.version:
        return False
    return publish()


def publish() -> bool:
    """Puts the routes of now into every partition; True once all hold them. Raises `RedisError`."""
    # The version is read before the rows: they may be newer than it says, never older.
    routes, _ = Routes.objects.get_or_create(pk=1)
    apis = Api.objects.filter(enabled=True).defer("document").prefetch_related("operations")
    blob = json.dumps([_api_json(api) for api in apis], separators=(",", ":"))
    fields: dict[str, str | int] = {"version": routes.version, "blob": blob}
    names = map(records.routes_name, records.PARTITIONS)
    if not all(arrives(records.Record(name, routes.version, fields)) for name in names):
        return False
    Routes.objects.filter(pk=1, published_version__lt=routes.version).update(
        published_version=routes.version
    )
    log.info("routes.published", version=routes.version)
    return True


def _api_json(api: Api) -> dict[str, Any]:
    return {
        "slug": api.slug,
        "upstream": api.upstream_url,
        "test_upstream": api.test_upstream_url,
        "sealed_headers": api.upstream_headers_sealed,
        "sealed_identity": api.identity_sealed,
        "allow_private": api.allow_private_upstream,
        "private_networks": api.private_networks,
        "unlisted": api.unlisted,
        "connect_s": api.connect_timeout_seconds,
        "first_byte_s": api.first_byte_timeout_seconds,
        "idle_s": api.idle_timeout_seconds,
        "total_s": api.total_timeout_seconds,
        "max_body": api.max_body_bytes,
        "cors": api.cors_origins,
        "unbilled": api.unbilled_statuses,
        "operations": [
            [row.method.upper(), row.path_template, row.weights, row.max_units]
            for row in api.operations.all()
        ],
        "scopes": {
            f"{row.method.upper()} {row.path_template}": row.scope
            for row in api.operations.all()
            if row.scope
        },
    }


# ------------------------------------------------------------------ matching


Origin = tuple[str, str, int, str]
"""Scheme, host, port, the private networks it may be in: what connections are shared by."""


class Backend(NamedTuple):
    """Where calls of an API go: scheme, host, port, and what stands before their path.

    private: the networks that it may be in besides the internet
    """

    scheme: str
    host: str
    port: int
    authority: bytes
    base_path: bytes
    private: addresses.Networks
    origin: Origin


class Operation:
    """One method and path template on sale, with everything admission says about it.

    units:    charged at admission by meter; for meters that the backend reports, their maximum
    reported: the meters of `units` that the backend reports, by their maximum
    scope:    what the account must have; "": nothing
    arguments: what admit.lua is told of the units: meter, units, …
    admits:    by partition, the command that admits a call of it (gateway.admit)
    """

    __slots__ = ("admits", "arguments", "label", "reported", "scope", "units", "units_json")

    def __init__(
        self, label: str, weights: dict[str, int], max_units: dict[str, int], scope: str = ""
    ):
        units = DEFAULT_WEIGHTS | weights | max_units
        self.label = label
        self.scope = scope
        self.units = units
        self.reported = max_units
        self.admits: dict[int, Template] = {}
        self.units_json = json.dumps(units, separators=(",", ":"))
        self.arguments = tuple(str(part) for pair in units.items() for part in pair)


class ApiRoutes:
    """One API of the table: its backend, limits and operations, ready for matching."""

    def __init__(self, row: dict[str, Any]):
        self.slug: str = row["slug"]
        # A blob of the release before has none of what is asked for by `get`.
        private = addresses.networks(row.get("private_networks", ()))
        if row["allow_private"]:
            private = addresses.EVERYWHERE
        self.live = _backend(row["upstream"], private)
        self.test = self.live
        if row["test_upstream"]:
            self.test = _backend(row["test_upstream"], private)
        self.connect_s: int = row["connect_s"]
        self.first_byte_s: int = row["first_byte_s"]
        self.idle_s: int = row["idle_s"]
        self.total_s: int = row["total_s"]
        self.is_endless = self.total_s == 0
        # The body's first part, the connection and the exchange, each as late as it may be; a call
        # without an end renews its open instead (gateway.renewal).
        self.longest_ms = 0
        if not self.is_endless:
            self.longest_ms = (self.idle_s + self.connect_s + self.total_s) * 1000
        self.max_body: int = row["max_body"]
        self.unbilled = frozenset(row.get("unbilled", ()))
        self.cors = Origins(row["cors"]) if row.get("cors") else None
        secret = _secret_headers(row["slug"], row["sealed_headers"])
        self.secret_names = frozenset(name for name, _ in secret)
        self.secret_lines = lines_of(secret)
        self.signer = _signer(row["slug"], row.get("sealed_identity", ""))
        self._other = Operation(OTHER, {}, {}) if row["unlisted"] == Api.Unlisted.FORWARD else None
        self._static: dict[tuple[str, bytes], Operation] = {}
        self.by_label: dict[str, Operation] = {}
        templated: defaultdict[str, list[tuple[str, Operation]]] = defaultdict(list)
        scopes = row.get("scopes", {})
        for method, template, weights, max_units in row["operations"]:
            label = f"{method} {template}"
            operation = Operation(label, weights, max_units, scopes.get(label, ""))
            self.by_label[operation.label] = operation
            if "{" in template:
                templated[method].append((template, operation))
            else:
                self._static[method, template.encode()] = operation
        self._templated = {method: _compile(found) for method, found in templated.items()}
        self._methods = sorted({method for method, _ in self._static} | set(templated))

    def find(self, method: str, path: bytes) -> Operation | Refusal:
        """The operation of a path as it came.

        Compared without percent-encoding, so that no other spelling escapes its price. An
        encoded slash is a slash to some backends and not to others: where that would make it
        another operation it is refused.
        """
        if b"%" not in path:
            return self._find(method, path)
        kept = ENCODED_SLASH.sub(b"%252F", path)
        found = self._find(method, unquote_to_bytes(kept))
        if kept != path and isinstance(found, Operation):
            other = self._find(method, unquote_to_bytes(path))
            if isinstance(other, Operation) and other not in (found, self._other):
                return AMBIGUOUS_PATH
        return found

    def _find(self, method: str, path: bytes) -> Operation | Refusal:
        return self._listed(method, path) or self._unlisted(method, path)

    def _unlisted(self, method: str, path: bytes) -> Operation | Refusal:
        """What a path comes to that is no operation's with this method."""
        if method == "HEAD" and (found := self._listed("GET", path)) is not None:
            return found
        if self._other is not None:
            return self._other
        allowed = [other for other in self._methods if self._listed(other, path) is not None]
        if not allowed:
            return UNKNOWN_OPERATION
        if "GET" in allowed and "HEAD" not in allowed:
            allowed.append("HEAD")
        allow = ", ".join(allowed).encode()
        return Refusal("method_not_allowed", headers=((b"allow", allow),))

    def _listed(self, method: str, path: bytes) -> Operation | None:
        operation = self._static.get((method, path))
        if operation is None and method in self._templated:
            pattern, operations = self._templated[method]
            if match := pattern.fullmatch(path):
                return operations[(match.lastindex or 1) - 1]
        return operation


class Table:
    """All routes of one version."""

    def __init__(self, version: str, blob: bytes):
        self.version = version
        self.apis = {row["slug"]: ApiRoutes(row) for row in json.loads(blob)}
        self.speaks_to_browsers = any(api.cors for api in self.apis.values())


UNKNOWN_OPERATION = Refusal("unknown_operation")
AMBIGUOUS_PATH = Refusal("bad_request", "The path has an encoded slash that is ambiguous here.")


def _compile(templates: list[tuple[str, Operation]]) -> tuple[re.Pattern[bytes], list[Operation]]:
    """One pattern with a group per template, the most literal first."""
    ordered = sorted(templates, key=lambda item: _specificity(item[0]))
    groups = (f"({_pattern(template)})" for template, _ in ordered)
    return re.compile("|".join(groups).encode()), [operation for _, operation in ordered]


def _specificity(template: str) -> tuple[tuple[bool, int], ...]:
    return tuple(("{" in part, -len(part)) for part in template.split("/"))


def _pattern(template: str) -> str:
    parts = re.split(r"\{[^{}]*\}", template)
    return "[^/]+".join(re.escape(part) for part in parts)


def _backend(url: str, private: addresses.Networks) -> Backend:
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    authority = parts.netloc.rpartition("@")[2].encode()
    origin = (parts.scheme, host, port, ",".join(sorted(map(str, private))))
    base_path = parts.path.rstrip("/").encode()
    return Backend(parts.scheme, host, port, authority, base_path, private, origin)


def _secret_headers(slug: str, text: str) -> tuple[tuple[bytes, bytes], ...]:
    if not text:
        return ()
    try:
        headers = json.loads(sealed.unseal(text))
    except sealed.SealBroken:
        # The API's backend will refuse these calls; the other APIs go on.
        log.error("routes.seal_broken", api=slug)
        return ()
    return tuple((name.lower().encode(), value.encode()) for name, value in headers.items())


def _signer(slug: str, text: str) -> identity.Signer | None:
    try:
        secrets = identity.unseal(text)
    except sealed.SealBroken:
        # The API's backend, which asks for an identity, refuses these calls.
        log.error("routes.identity_seal_broken", api=slug)
        return None
    return identity.Signer(secrets[0]) if secrets else None
