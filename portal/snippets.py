"""Writes one HTTP call as programs that work when pasted: curl, Python and JavaScript.

The key comes from the environment in all three. Every value is written as a literal of its
language, so that nothing in a document can end one and become code.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

Query = Mapping[str, str | list[str]]


@dataclass(frozen=True)
class Call:
    """What is called: `url` without its query; `body` is sent as JSON, or else as text."""

    method: str
    url: str
    query: Query = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    media_type: str = ""
    answers_json: bool = True

    @property
    def address(self) -> str:
        return f"{self.url}?{urlencode(self.query, doseq=True)}" if self.query else self.url

    @property
    def sends_json(self) -> bool:
        return self.media_type == "application/json" or self.media_type.endswith("+json")

    @property
    def text(self) -> str:
        """The body as text, if it isn't JSON: a form's fields or what the document gives."""
        if self.media_type == "application/x-www-form-urlencoded" and isinstance(self.body, dict):
            return urlencode(self.body, doseq=True)
        return self.body if isinstance(self.body, str) else json.dumps(self.body)


def curl(call: Call) -> str:
    lines = [f"curl {_shell(call.address)}"]
    if call.method != ("POST" if call.media_type else "GET"):
        lines[0] += " --head" if call.method == "HEAD" else f" -X {call.method}"
    lines.append('-H "Authorization: Bearer $KEYSTILE_KEY"')
    lines += [f"-H {_shell(f'{name}: {value}')}" for name, value in call.headers.items()]
    if call.media_type:
        text = json.dumps(call.body, ensure_ascii=False) if call.sends_json else call.text
        lines.append(f"-H {_shell(f'Content-Type: {call.media_type}')}")
        lines.append(f"--data-raw {_shell(text)}")
    return " \\\n  ".join(lines)


def python(call: Call) -> str:
    fields = "".join(f", {_python(name)}: {_python(value)}" for name, value in call.headers.items())
    arguments = [_python(call.url)]
    if call.query:
        arguments.append(f"params={_python(dict(call.query), 1)}")
    if call.media_type not in ("", "application/json"):
        fields += f', "Content-Type": {_python(call.media_type)}'
    key = "f\"Bearer {os.environ['KEYSTILE_KEY']}\""
    arguments.append(f'headers={{"Authorization": {key}{fields}}}')
    if call.sends_json:
        arguments.append(f"json={_python(call.body, 1)}")
    elif call.media_type:
        arguments.append(f"data={_python(call.text)}.encode()")
    arguments.append("timeout=30")
    listed = "".join(f"    {argument},\n" for argument in arguments)
    return (
        "import os\n\nimport requests\n\n"
        f"response = requests.{call.method.lower()}(\n{listed})\n"
        "response.raise_for_status()\n"
        f"print(response.{'json()' if call.answers_json else 'text'})"
    )


def javascript(call: Call) -> str:
    fields = ["Authorization: `Bearer ${process.env.KEYSTILE_KEY}`"]
    sent = dict(call.headers)
    if call.media_type:
        sent["Content-Type"] = call.media_type
    fields += [f"{_json(name)}: {_json(value)}" for name, value in sent.items()]
    options = [] if call.method == "GET" else [f"method: {_json(call.method)}"]
    options.append("headers: { " + ", ".join(fields) + " }")
    if call.sends_json:
        body = json.dumps(call.body, ensure_ascii=False, indent=2).replace("\n", "\n  ")
        options.append(f"body: JSON.stringify({body})")
    elif call.media_type:
        options.append(f"body: {_json(call.text)}")
    listed = "".join(f"  {option},\n" for option in options)
    answer = "json()" if call.answers_json else "text()"
    return (
        f"const response = await fetch({_json(call.address)}, {{\n{listed}}});\n"
        f"console.log(response.status, await response.{answer});"
    )


def _shell(text: str) -> str:
    return "'" + text.replace("'", "'\"'\"'") + "'"


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _python(value: Any, depth: int = 0) -> str:
    """A value of JSON as a Python literal, over several lines if it is long."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str):
        return _json(value)
    if isinstance(value, dict):
        opening, closing = "{}"
        members = [f"{_json(key)}: {_python(member, depth + 1)}" for key, member in value.items()]
    else:
        opening, closing = "[]"
        members = [_python(member, depth + 1) for member in value]
    line = f"{opening}{', '.join(members)}{closing}"
    if len(line) <= 72 and "\n" not in line:
        return line
    indent = "    " * (depth + 1)
    listed = "".join(f"{indent}{member},\n" for member in members)
    return f"{opening}\n{listed}{'    ' * depth}{closing}"
