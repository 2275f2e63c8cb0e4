"""`tailorbird recommend`: answer a request from the shell."""

import os
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import msgspec

from tailorbird.cli.output import Json, console, print_json, print_table, this_command
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.platform.runtime.servers import plain_key, running_servers

if TYPE_CHECKING:
    from tailorbird.config import Project


def recommend(
    *,
    user: str = "",
    slot: str = "",
    size: int = 0,
    query: str = "",
    url: str = "",
    as_of: str = "",
    explain: bool = False,
    json: Json = False,
) -> None:
    """Request recommendations or a search from the shell, without logging the answer.

    A running server answers if there is one, otherwise this process. For a log that ended more than
    two days ago, this process answers as of its end and says so; a server follows its own clock. If
    the server needs a key, it is `TAILORBIRD_KEY` or the first of `serve.read_keys`.

    Example:  tailorbird -C shop recommend --user u000001

    Example:  tailorbird -C shop recommend --user u000001 --query "wool coat" --json

    Parameters
    ----------
    user:
        a user id; by default an unknown visitor
    slot:
        name of the slot; by default train.slot
    size:
        number of items; by default the size of the slot
    query:
        search for this text instead of filling the slot
    url:
        URL of the server to ask
    as_of:
        answer in this process as of this time; `latest` is the end of the log, `now` is today
    explain:
        also show the features of the first items and their effect on the value
    """
    from tailorbird.config import open_project
    from tailorbird.platform.answering import answer as answer_in_process
    from tailorbird.platform.answering import build_request_body, require_items
    from tailorbird.platform.results import Slate
    from tailorbird.serving.messages import RecommendResponse

    project = open_project(use_applied=True)
    if url and as_of:
        raise UsageError(
            "a server answers as of its own clock", where="--as-of", fix="leave --url out"
        )
    url = url or ("" if as_of else next(running_servers(project.paths.run), ""))
    options = {"slot": slot, "user_id": user, "query": query, "size": size, "explain": explain}
    if url:
        body = build_request_body(project, **options)
        path = "/v1/search" if query else "/v1/recommend"
        response = _post(url, path, body, project.settings.serve.read_keys)
        slate = Slate(msgspec.convert(response, RecommendResponse))
        require_items(slate, url)
    else:
        slate = answer_in_process(project, **options, as_of=as_of)
        response = msgspec.to_builtins(slate.response)
    if json:
        print_json(response)
        return
    if slate.note:
        console().print(slate.note)
    rows = [_item_row(item) for item in response["items"]]
    print_table(
        "",
        ["", "item", "title", "score", "reason", "propensity"],
        rows,
        numeric_columns=["", "score", "propensity"],
    )
    degraded_note = f", degraded: {', '.join(response['degraded'])}" if response["degraded"] else ""
    console().print(
        f"model {response['model']}, arm {response['arm'] or 'none'}, request "
        f"{response['request_id']}{degraded_note}"
    )
    if not query:
        _print_notes(project, response, user)
    if explain:
        _print_explanations(response)


def _print_notes(project: "Project", response: dict, user: str) -> None:
    from tailorbird.registry import Registry
    from tailorbird.serving.messages import RecommendResponse
    from tailorbird.serving.pipeline.notes import explain_response

    registry = Registry(project.paths.registry, clock=project.clock())
    baseline = registry.info(response["model"]).baseline
    model_versions = [info.version for info in registry.versions() if info.heads]
    typed_response = msgspec.convert(response, RecommendResponse)
    is_known = bool(user) and _has_events(project, user)
    for line in explain_response(
        typed_response,
        user=user,
        has_history=is_known,
        baseline=baseline,
        command=this_command(),
        refused_version=max(model_versions, default=""),  # Read only if a baseline answers.
    ):
        console().print(f"  {line}")


def _has_events(project: "Project", user: str) -> bool:
    """Return whether the lake has an event of a user, or cannot tell."""
    from tailorbird.lake import Lake

    lake = Lake(project.paths.lake)
    if not lake.exists("events"):
        return True
    pseudonyms = project.pseudonyms(record_key=False)
    quoted_user_id = (user if pseudonyms is None else pseudonyms.user_id(user)).replace("'", "''")
    query = f"SELECT 1 FROM events WHERE user_id = '{quoted_user_id}' LIMIT 1"
    return bool(lake.sql(query).num_rows)


def _print_explanations(response: dict) -> None:
    for item in response["items"][:3]:
        explanation = item.get("explanation") or {}
        contributions = explanation.get("contributions", {})
        feature_rows = [
            (name, value, contributions.get(name, ""))
            for name, value in explanation.get("features", {}).items()
        ]
        computed_rows = [
            (name, "", value)
            for name, value in contributions.items()
            if name not in explanation.get("features", {})
        ]
        print_table(
            f"\n{item['item_id']}",
            ["column", "read", "moves the value"],
            [*feature_rows, *computed_rows],
            numeric_columns=["read", "moves the value"],
        )


def _item_row(item: dict) -> tuple[object, ...]:
    title = (item.get("attributes") or {}).get("title", "")
    return (
        item["position"],
        item["item_id"],
        title,
        item.get("score"),
        item["reason"],
        f"{item.get('propensity', 1.0):.4g}",
    )


def _post(url: str, path: str, body: dict, keys: list[str]) -> dict:
    headers = {"content-type": "application/json"}
    key = os.environ.get("TAILORBIRD_KEY") or plain_key(keys)
    if key:
        headers["authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url + path, msgspec.json.encode(body), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return msgspec.json.decode(response.read())
    except urllib.error.HTTPError as error:
        raise _to_usage_error(error, f"{url}{path}") from None
    except OSError as error:
        raise NotReadyError(
            f"no answer from {url}: {error}", fix="tailorbird up starts the server"
        ) from None


def _to_usage_error(error: urllib.error.HTTPError, where: str) -> UsageError:
    try:
        error_body = msgspec.json.decode(error.read(), type=dict[str, str])
    except msgspec.MsgspecError:
        return UsageError(f"refused with status {error.code}", where=where)
    return UsageError(
        error_body.get("message", "refused"),
        where=f"{where} {error_body.get('path', '')}".strip(),
        fix=error_body.get("fix", ""),
    )
