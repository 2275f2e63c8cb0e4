"""`tailorbird recommend`."""

import urllib.error
import urllib.request

import msgspec

from tailorbird.cli.output import Json, console, print_json, print_table
from tailorbird.errors import NotReadyError, UsageError


def recommend(
    *, user: str = "", slot: str = "", size: int = 0, query: str = "", url: str = "", explain: bool = False, json: Json = False
) -> None:
    """Ask for an answer from the shell: from the running server if there is one, else from this process, without logging it.

    Example:  tailorbird -C shop recommend --user u000001

    Example:  tailorbird -C shop recommend --user u000001 --query "wool coat" --json

    Parameters
    ----------
    user:
        a user id; a stranger unless told
    slot:
        the slot to fill; train.slot unless told
    size:
        how many items; the slot's own size unless told
    query:
        search for this instead of filling the slot
    url:
        ask this server
    explain:
        also show the features behind each item
    """
    from tailorbird.config import open_project

    project = open_project()
    body = {"slot": slot or ("search" if query and "search" in project.slots else project.settings.train.slot), "explain": explain}
    body |= {"attributes": ["title", "price", "category"]}
    if user:
        body["user_id"] = user
    if size:
        body["size"] = size
    if query:
        body["query"] = query
    url = url or _running(project.paths.run)
    answer = _ask(url, "/v1/search" if query else "/v1/recommend", body, project.settings.serve.read_keys) if url else _here(project, body)
    if json:
        print_json(answer)
        return
    rows = []
    for item in answer["items"]:
        attributes = item.get("attributes") or {}
        score = item.get("score")
        rows.append(
            (item["position"], item["item_id"], attributes.get("title", ""), score, item["reason"], f"{item.get('propensity', 1.0):.4g}")
        )
    print_table("", ["", "item", "title", "score", "reason", "propensity"], rows, right=["", "score", "propensity"])
    degraded = f", degraded: {', '.join(answer['degraded'])}" if answer["degraded"] else ""
    console().print(f"model {answer['model']}, arm {answer['arm'] or 'none'}, request {answer['request_id']}{degraded}")
    if explain:
        for item in answer["items"][:3]:
            features = (item.get("explanation") or {}).get("features", {})
            print_table(f"\n{item['item_id']}", ["feature", "value"], [list(pair) for pair in features.items()], right=["value"])


def _running(run) -> str:
    for path in sorted(run.glob("serve*.json")):
        address = msgspec.json.decode(path.read_bytes())["url"]
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=2):
                return address
        except OSError:
            continue
    return ""


def _ask(url: str, path: str, body: dict, keys: list[str]) -> dict:
    headers = {"content-type": "application/json"}
    if keys:
        headers["authorization"] = f"Bearer {keys[0]}"
    request = urllib.request.Request(url + path, msgspec.json.encode(body), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return msgspec.json.decode(response.read())
    except urllib.error.HTTPError as error:
        fault = msgspec.json.decode(error.read())
        raise UsageError(fault.get("message", "refused"), where=f"{url}{path} {fault.get('path', '')}".strip()) from None
    except OSError as error:
        raise NotReadyError(f"no answer from {url}: {error}", fix="tailorbird up starts the server") from None


def _here(project, body: dict) -> dict:
    from tailorbird.cli.inprocess import open_pipeline
    from tailorbird.events import SystemClock
    from tailorbird.serving.messages import RecommendQuery, SearchQuery

    with open_pipeline(project, SystemClock(), seed=None) as pipeline:
        if "query" in body:
            answer = pipeline.search(msgspec.convert(body, SearchQuery))
        else:
            answer = pipeline.answer(msgspec.convert(body, RecommendQuery))
    return msgspec.to_builtins(answer)
