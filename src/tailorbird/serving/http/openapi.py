"""The OpenAPI 3.1 document, generated from routes and their types, and a page that shows it
without a script.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec

from tailorbird.pages import render
from tailorbird.serving.auth.keyfile import OPEN
from tailorbird.version import __version__

_ENCODED_ID_NOTE = "Percent-encoded, a slash too (`%2F`)."
_REF_TEMPLATE = "#/components/schemas/{name}"


@dataclass(frozen=True)
class Operation:
    """The documentation of a route.

    Attributes:
        scope: `open`, `read`, `write` or `admin`: which key may call it.
        summary: one sentence.
        request_type: the type of the body, or None.
        response_type: the type of a 200 answer; `str` for text.
        text_media_type: the media type of such a text.
        refusal_type: the type of a 400 answer where that is not only a fault.
        queries: query parameters, name → description.
        request_media_types: media types of the body.
        error_statuses: other statuses that it may answer with.
    """

    scope: str
    summary: str
    request_type: Any = None
    response_type: Any = str
    queries: dict[str, str] = field(default_factory=dict)
    request_media_types: Sequence[str] = ("application/json",)
    error_statuses: Sequence[int] = ()
    text_media_type: str = "text/plain"
    refusal_type: Any = None


_STATUS_DESCRIPTIONS = {
    400: "The request cannot be read; `path` says where.",
    401: "No key, or an unknown one.",
    403: "The key's scope does not allow this.",
    404: "There is no such thing.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body's encoding is not understood.",
    429: "Too much at once; wait as `Retry-After` says.",
    503: "Not possible at the moment; wait as `Retry-After` says.",
    507: "The disk is almost full: nothing was taken; wait as `Retry-After` says.",
}


def build_document(
    operations: dict[tuple[str, str], Operation], fault_type: type
) -> dict[str, Any]:
    """Generate the document of (path, method) → operation."""
    types = [
        fault_type,
        *(
            type_
            for operation in operations.values()
            for type_ in (operation.request_type, operation.response_type, operation.refusal_type)
            if type_ not in (None, str, dict)
        ),
    ]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF_TEMPLATE)
    schema_by_type = dict(zip(map(_type_key, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for (path, method), operation in operations.items():
        paths.setdefault(path, {})[method.lower()] = _describe_operation(
            path, method, operation, schema_by_type, schema_by_type[_type_key(fault_type)]
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tailorbird",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _type_key(type_: Any) -> str:
    return repr(type_)


def _describe_operation(
    path: str, method: str, operation: Operation, schema_by_type: dict[str, Any], fault_schema: Any
) -> dict[str, Any]:
    path_name = path.replace("/", "_").replace("{", "").replace("}", "")
    operation_object: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{method.lower()}{path_name}",
        "responses": {
            "200": {"description": "Done.", "content": _describe_content(operation, schema_by_type)}
        },
    }
    if operation.scope != OPEN:
        operation_object["security"] = [{"key": []}, {}]
        operation_object["description"] = (
            f"Needs a key with the {operation.scope} scope where keys are set."
        )
    parameters: list[dict[str, Any]] = [
        {
            "name": path_segment[1:-1],
            "in": "path",
            "required": True,
            "description": _ENCODED_ID_NOTE,
            "schema": {"type": "string"},
        }
        for path_segment in path.split("/")
        if path_segment[:1] == "{"
    ]
    parameters += [
        {"name": name, "in": "query", "description": description, "schema": {"type": "string"}}
        for name, description in operation.queries.items()
    ]
    if parameters:
        operation_object["parameters"] = parameters
    if operation.request_type is not None:
        schema = schema_by_type[_type_key(operation.request_type)]
        operation_object["requestBody"] = {
            "required": True,
            "content": {
                media_type: {"schema": schema} for media_type in operation.request_media_types
            },
        }
    for status in operation.error_statuses:
        schema = (
            fault_schema
            if status != 400 or operation.refusal_type is None
            else {"anyOf": [fault_schema, schema_by_type[_type_key(operation.refusal_type)]]}
        )
        content = {"application/json": {"schema": schema}}
        if operation.scope == OPEN:  # probes of load balancers get plain text
            content = {"text/plain": {"schema": {"type": "string"}}}
        operation_object["responses"][str(status)] = {
            "description": _STATUS_DESCRIPTIONS[status],
            "content": content,
        }
    return operation_object


def _describe_content(operation: Operation, schema_by_type: dict[str, Any]) -> dict[str, Any]:
    response_type = operation.response_type
    if response_type is str:
        return {operation.text_media_type: {"schema": {"type": "string"}}}
    return {
        "application/json": {
            "schema": {"type": "object"}
            if response_type is dict
            else schema_by_type[_type_key(response_type)]
        }
    }


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --mark: #2a7f62 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .3rem; border-top: 1px solid var(--line);
padding-top: 1rem }
code, pre { font: 13px/1.45 ui-monospace, monospace }
pre { background: var(--soft); padding: .7rem; overflow: auto; border-radius: 6px }
.method { color: var(--mark); font-weight: 600; margin-right: .5rem }
.scope { float: right; opacity: .7; font-weight: 400 }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .25rem .6rem .25rem 0; vertical-align: top;
border-bottom: 1px solid var(--line) }
summary { cursor: pointer }
"""


# The hash lets the page do without unsafe-inline.
STYLE_HASH = f"'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'"


def render_page(document: dict[str, Any]) -> str:
    """Render the document as one HTML page without scripts or external resources."""
    return render(
        "openapi", document=document, style=STYLE, type_names=type_names, pretty_json=_pretty_json
    )


def type_names(document_part: Any) -> list[str]:
    """Return the names of the types that a part of the document refers to, sorted."""
    return sorted(set(_referenced_names(document_part)))


def _referenced_names(document_part: Any) -> list[str]:
    if isinstance(document_part, dict):
        names = (
            [document_part["$ref"].rpartition("/")[2]]
            if isinstance(document_part.get("$ref"), str)
            else []
        )
        return names + [
            name for value in document_part.values() for name in _referenced_names(value)
        ]
    if isinstance(document_part, list):
        return [name for value in document_part for name in _referenced_names(value)]
    return []


def _pretty_json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
