"""Reads OpenAPI documents into the operations that can be sold.

Owns what of OpenAPI 3.0 and 3.1 the gateway can match and meter: methods, path templates and the
vendor extension `x-keystile`. Reads no database and writes nothing; the one function that uses
the network is `fetch`, and references to other documents are never followed.

An operation may say, under `x-keystile`, what a call of it costs:

    weights:   {calls: 2}      units per call, known before it is made
    max_units: {rows: 1000}    meters that the backend reports, with the most that a call may use
    scope: history             what an account must have to call it
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import unquote

from jsonschema_path import SchemaPath
from openapi_spec_validator import OpenAPIV30SpecValidator, OpenAPIV31SpecValidator
from openapi_spec_validator.validation.types import SpecValidatorType
from referencing.exceptions import Unresolvable

from gateway import addresses, fetching, plain_data

METHODS = ("get", "put", "post", "delete", "options", "head", "patch")
VALIDATORS: dict[str, SpecValidatorType] = {
    "3.0": OpenAPIV30SpecValidator,
    "3.1": OpenAPIV31SpecValidator,
}
MAX_BYTES = plain_data.MAX_BYTES
MAX_PATH_LENGTH = 300
MAX_SUMMARY_LENGTH = 200
MAX_REFERENCES = 32
MAX_WEIGHT = 1_000_000
MAX_UNITS = 1_000_000_000
CALLS = "calls"
SCOPE = re.compile(r"[a-z0-9-]{1,40}")

# Members that hold a seller's own data, in which a "$ref" is text and no reference.
DATA_MEMBERS = {"const", "default", "enum", "example", "examples"}
SEGMENT = re.compile(r"(?:[^{}]|\{[^{}/]+\})*")
PARAMETER = re.compile(r"\{([^{}]+)\}")
PARAMETER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
METER_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")


class InvalidDocument(Exception):
    """The document cannot be sold from; the message is a sentence for the seller."""


@dataclass(frozen=True)
class OperationSpec:
    """One operation of a document.

    `method` is upper case; `path_template` is as in the document, without the servers' base path;
    `summary` is cut to 200 characters. `weights` and `max_units` map meters to positive integers,
    and never name the same meter. `scope` is what an account must have, or "".
    """

    method: str
    path_template: str
    summary: str
    weights: dict[str, int]
    max_units: dict[str, int]
    scope: str
    deprecated: bool


@dataclass(frozen=True)
class Document:
    """A valid document; `raw` is all of it as plain data, fit for JSON."""

    title: str
    version: str
    description: str
    raw: dict[str, Any]
    operations: tuple[OperationSpec, ...]


@dataclass(frozen=True)
class Preview:
    """What an import would do to the operations on sale."""

    added: tuple[OperationSpec, ...]
    kept: tuple[OperationSpec, ...]
    removed: tuple[tuple[str, str], ...]


def read(text: bytes) -> Document:
    """Read an OpenAPI 3.0 or 3.1 document in JSON or YAML. Raises `InvalidDocument`."""
    try:
        raw = plain_data.load(text)
    except plain_data.Unreadable as unreadable:
        raise InvalidDocument(str(unreadable)) from None
    validator = VALIDATORS[_version(raw)]
    _check_structure(validator, raw)
    _check_references(raw)
    check_paths(raw.get("paths", {}))
    _check_meaning(validator, raw)
    operations = tuple(_operations(raw))
    if not operations:
        raise InvalidDocument("The document describes no operation, so there is nothing to sell.")
    info = raw["info"]
    return Document(info["title"], info["version"], info.get("description", ""), raw, operations)


def fetch(url: str, *, private: addresses.Networks = ()) -> bytes:
    """The text behind a URL, for `read`: 5 MB and 10 seconds at most.

    private: networks that it may come from besides the internet

    Raises `InvalidDocument`.
    """
    try:
        return fetching.get(url, max_bytes=MAX_BYTES, timeout_seconds=10, private=private)
    except fetching.Unfetchable as unfetchable:
        raise InvalidDocument(str(unfetchable)) from None


def resolve(document: Mapping[str, Any], pointer: str) -> Any:
    """What a local reference such as `#/components/schemas/Pet` points to (RFC 6901).

    Follows references that point to references, at most 32. Raises `InvalidDocument` for one that
    leads elsewhere, nowhere or round in circles.
    """
    asked = pointer
    for _ in range(MAX_REFERENCES):
        value = _at(document, pointer)
        if not (isinstance(value, dict) and isinstance(value.get("$ref"), str)):
            return value
        pointer = value["$ref"]
    raise InvalidDocument(f"The reference '{asked[:200]}' leads round in circles.")


def path_items(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The path templates of a valid document with their path items, references resolved."""
    for template, item in document.get("paths", {}).items():
        if template.startswith("x-"):
            continue
        yield template, {**resolve(document, item["$ref"]), **item} if "$ref" in item else item


def preview(document: Document, existing: Iterable[tuple[str, str]]) -> Preview:
    """Compare with the operations on sale, given as pairs of method and path template."""
    on_sale = set(existing)
    described = {(spec.method, spec.path_template): spec for spec in document.operations}
    return Preview(
        added=tuple(spec for route, spec in described.items() if route not in on_sale),
        kept=tuple(spec for route, spec in described.items() if route in on_sale),
        removed=tuple(sorted(on_sale - described.keys())),
    )


def _version(raw: Any) -> str:
    if not isinstance(raw, dict):
        raise InvalidDocument("This is not an OpenAPI document: it is not an object with keys.")
    if "swagger" in raw:
        raise InvalidDocument(
            "This is a Swagger 2.0 document; convert it to OpenAPI 3 first, for example with "
            "converter.swagger.io, and import the result."
        )
    if "openapi" not in raw:
        raise InvalidDocument("This is not an OpenAPI document: it has no 'openapi' version.")
    found = re.match(r"(\d+\.\d+)\.\d+", str(raw["openapi"]))
    if not found or found[1] not in VALIDATORS:
        raise InvalidDocument(
            f"The document says OpenAPI {str(raw['openapi'])[:20]}; Keystile reads 3.0 and 3.1, "
            "written like 3.1.0."
        )
    return found[1]


def _check_structure(validator: SpecValidatorType, raw: dict[str, Any]) -> None:
    try:
        errors = list(islice(validator.schema_validator.iter_errors(raw), 20))
    except RecursionError:
        raise InvalidDocument("The document nests too deeply to be checked.") from None
    if errors:
        raise _explained(max(errors, key=lambda error: len(error.absolute_path)))


def _explained(error: Any) -> InvalidDocument:
    """The innermost cause of a validation error; "or else a $ref" is never a useful one."""
    while causes := [
        cause for cause in error.context or () if not cause.message.startswith("'$ref'")
    ]:
        error = max(causes, key=lambda cause: len(cause.absolute_path))
    where = " › ".join(str(part)[:80] for part in error.absolute_path)
    message = error.message.splitlines()[0]
    if len(message) > 200:
        message = f"…{message[-200:]}"
    place = f", at {where}" if where else ""
    return InvalidDocument(f"The document is not valid OpenAPI{place}: {message}.")


def _check_references(raw: dict[str, Any]) -> None:
    for reference in _references(raw):
        if not reference.startswith("#"):
            raise InvalidDocument(
                f"The document refers to another one, '{reference[:200]}'; bundle them into a "
                "single file first, for example with `redocly bundle`."
            )
        resolve(raw, reference)


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for member in node:
            yield from _references(member)
    if not isinstance(node, dict):
        return
    for key, member in node.items():
        if key in {"$ref", "$dynamicRef"} and isinstance(member, str):
            yield member
        elif key not in DATA_MEMBERS and not key.startswith("x-"):
            yield from _references(member)


def _at(document: Mapping[str, Any], pointer: str) -> Any:
    """The value at one JSON pointer, references in the way followed no further."""
    if pointer == "#":
        return document
    if not pointer.startswith("#/"):
        raise InvalidDocument(
            f"The document refers to '{pointer[:200]}'; only references such as "
            "'#/components/schemas/Name' are read."
        )
    value: Any = document
    for part in pointer[2:].split("/"):
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise InvalidDocument(
                f"The document refers to '{pointer[:200]}', and there is nothing there."
            )
    return value


def check_paths(paths: Iterable[str]) -> None:
    """Refuse templates that the gateway could not tell apart or could never match."""
    template_by_shape: dict[str, str] = {}
    for template in paths:
        if template.startswith("x-"):
            continue
        shown = f"The path '{template[:200]}'"
        if len(template) > MAX_PATH_LENGTH:
            raise InvalidDocument(f"{shown} is longer than {MAX_PATH_LENGTH} characters.")
        if not re.fullmatch(r"/[\x21-\x7e]*", template) or re.search(r"[?#\\]", template):
            raise InvalidDocument(
                f"{shown} has a character that a path can't have; it starts with '/' and has no "
                "query, no blank and, if need be, percent-encoding."
            )
        if {".", ".."} & set(unquote(template).split("/")):
            raise InvalidDocument(f"{shown} has a '.' or '..' segment, which no call can reach.")
        _check_parameters(template, shown)
        shape = PARAMETER.sub("{}", template)
        if shape in template_by_shape:
            raise InvalidDocument(
                f"The paths '{template_by_shape[shape]}' and '{template}' differ in the names of "
                "their parameters only, so a call would match both."
            )
        template_by_shape[shape] = template


def _check_parameters(template: str, shown: str) -> None:
    if not all(SEGMENT.fullmatch(segment) for segment in template.split("/")):
        raise InvalidDocument(f"{shown} has braces that are not a parameter such as {{id}}.")
    if "}{" in template:
        raise InvalidDocument(f"{shown} has two parameters with nothing between them.")
    names = PARAMETER.findall(template)
    for name in names:
        if not PARAMETER_NAME.fullmatch(name):
            raise InvalidDocument(
                f"{shown} has the parameter '{{{name}}}'; a parameter is a plain name that "
                "stands for one segment or a part of one, such as {id}."
            )
    if len(set(names)) < len(names):
        raise InvalidDocument(f"{shown} has the same parameter twice.")


class _NoRetrieval(Mapping[str, Callable[[str], Any]]):
    """Handlers for every scheme that there is, all of which refuse.

    An empty mapping would not do: for a scheme without a handler jsonschema-path opens the URL
    itself, files included.
    """

    def __contains__(self, scheme: object) -> bool:
        return True

    def __getitem__(self, scheme: str) -> Callable[[str], Any]:
        return self._refuse

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    @staticmethod
    def _refuse(uri: str) -> Any:
        raise LookupError(uri)


def _check_meaning(validator: SpecValidatorType, raw: dict[str, Any]) -> None:
    """What a schema of OpenAPI cannot say: parameters declared, ids unique, defaults that fit.

    The root validator is asked by itself: `validate()` would keep the document in a cache without
    bound, and repeat `_check_structure`.
    """
    path = SchemaPath.from_dict(_without_patterns(raw), handlers=_NoRetrieval())
    checker = validator(path)
    try:
        error = next(checker.root_validator(path), None)
    except RecursionError:
        raise InvalidDocument("The document's references lead round in circles.") from None
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError, Unresolvable):
        # The validator takes it for granted that a reference points to the right kind of object.
        raise InvalidDocument(
            "A reference in the document points to nothing in it, or to the wrong kind of "
            "object, such as a schema where a parameter belongs."
        ) from None
    if error is not None:
        raise _explained(error)


def _without_patterns(node: Any) -> Any:
    """A copy without regular expressions, which would be run on defaults, and without `$id`s.

    A seller's pattern may take years to match a seller's default; an `$id` would turn local
    references into remote ones.
    """
    if isinstance(node, list):
        return [_without_patterns(member) for member in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _without_patterns(member)
        for key, member in node.items()
        if key not in {"$id", "pattern"} or not isinstance(member, str)
    }


def _operations(raw: dict[str, Any]) -> Iterator[OperationSpec]:
    for template, item in path_items(raw):
        if "trace" in item:
            raise InvalidDocument(f"TRACE {template} can't be sold: the gateway refuses TRACE.")
        for method in METHODS:
            if method in item:
                yield _operation(method.upper(), template, item[method])


def _operation(method: str, template: str, operation: dict[str, Any]) -> OperationSpec:
    summary = operation.get("summary", "")
    terms = operation.get("x-keystile", {})
    shown = f"x-keystile of {method} {template}"
    if not isinstance(terms, dict) or not set(terms) <= {"weights", "max_units", "scope"}:
        raise InvalidDocument(
            f"The {shown} may have 'weights', 'max_units' and 'scope', nothing else."
        )
    scope = terms.get("scope", "")
    if scope and not (isinstance(scope, str) and SCOPE.fullmatch(scope)):
        raise InvalidDocument(
            f"The scope of {method} {template} is small letters, digits and '-', such as history."
        )
    weights = _meters(terms.get("weights", {}), MAX_WEIGHT, f"weights in {shown}")
    max_units = _meters(terms.get("max_units", {}), MAX_UNITS, f"max_units in {shown}")
    if CALLS in max_units:
        raise InvalidDocument(f"The {shown} reports 'calls'; calls are counted by the gateway.")
    if both := sorted(set(weights) & set(max_units)):
        raise InvalidDocument(
            f"The {shown} has '{both[0]}' in weights and in max_units; units are either known "
            "before the call or reported after it."
        )
    return OperationSpec(
        method=method,
        path_template=template,
        summary=summary if len(summary) <= MAX_SUMMARY_LENGTH else f"{summary[:199]}…",
        weights=weights,
        max_units=max_units,
        scope=scope,
        deprecated=operation.get("deprecated", False),
    )


def _meters(value: Any, most: int, shown: str) -> dict[str, int]:
    if not isinstance(value, dict):
        raise InvalidDocument(f"The {shown} must map meters to numbers, such as {{calls: 2}}.")
    for meter, units in value.items():
        if not METER_NAME.fullmatch(meter):
            raise InvalidDocument(
                f"The {shown} name the meter '{meter[:60]}'; a meter has at most 40 small "
                "letters, digits, '-' and '_'."
            )
        if not isinstance(units, int) or isinstance(units, bool) or not 1 <= units <= most:
            raise InvalidDocument(
                f"The {shown} give '{meter}' a value that is not a whole number from 1 to {most:,}."
            )
    return dict(value)
