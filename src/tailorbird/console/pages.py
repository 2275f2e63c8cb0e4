"""Shared parts of the console's pages: static files, the security policy, and the features of a
person.

    GET  /console/{style.css,live.js,…}     from this package
    POST /console/person                    a person's own features from the current state
"""

from html import escape
from importlib.resources import files

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailorbird.errors import NotReadyError
from tailorbird.features import ReadRequest
from tailorbird.serving.http.handling import Handler, Service, read_request_body
from tailorbird.serving.messages import decode
from tailorbird.serving.pipeline.pipeline import Pipeline

_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_MEDIA_TYPES = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
}


class PersonQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The person whose features to read."""

    user_id: str | None = None
    anonymous_id: str | None = None
    session_id: str | None = None


_person_query_decoder = msgspec.json.Decoder(PersonQuery)


def static_file(name: str, **replacements: str) -> Handler:
    """Return a handler of a file of this package; `{word}` in a page is replaced by its value."""
    content = (files("tailorbird.console") / "static" / name).read_text()
    for word, value in replacements.items():
        content = content.replace(f"{{{word}}}", escape(value))
    media_type = _MEDIA_TYPES[name.rpartition(".")[2]]

    async def handler(request: Request, service: Service) -> Response:
        return Response(
            content, media_type=media_type, headers={"content-security-policy": _SECURITY_POLICY}
        )

    return handler


async def post_person(request: Request, service: Service) -> Response:
    """Answer with the features of the person in the body."""
    body = await read_request_body(request, service, bytes_max=4_096)
    query = decode(body, _person_query_decoder)
    return Response(
        msgspec.json.encode(read_person_features(service, query)), media_type="application/json"
    )


def read_person_features(service: Service, query: PersonQuery) -> dict[str, object]:
    """Return the person's features without any item; columns about an item are missing.

    `seen` changes with each of their events: it is the time of the newest one in a sequence, or the
    state's commit where no sequence is kept.
    """
    pipeline = service.pipeline
    if not isinstance(pipeline, Pipeline):
        return {"seen": 0, "features": {}}
    user = query.user_id or None
    anonymous = query.anonymous_id or None
    if (pseudonyms := pipeline.pseudonyms) is not None:
        user = user and pseudonyms.user_id(user)
        anonymous = anonymous and pseudonyms.anonymous_id(anonymous)
    request = ReadRequest(
        person=user,
        anonymous_id=anonymous,
        session_id=query.session_id,
        device=None,
        country=None,
        local_hour=0,
        now=pipeline.clock.now(),
    )
    with pipeline.feature_access() as access:
        try:
            person_rows = None if access.reader is None else access.reader.person(request)
        except NotReadyError:
            person_rows = None
    if person_rows is None:
        return {"seen": 0, "features": {}}
    newest_ts = max(
        (int(sequence.ts[-1]) for sequence in person_rows.sequences.values() if len(sequence.ts)),
        default=0,
    )
    values = zip(access.features.numeric, person_rows.numeric[0].tolist(), strict=True)
    return {
        "seen": newest_ts if person_rows.sequences else person_rows.commit,
        "features": {name: value for name, value in values if value == value},
    }
