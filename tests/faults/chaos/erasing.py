"""The scene of an erasure: two people who are to be nowhere once it is through, however often it
was killed on the way.
"""

import json
from pathlib import Path

from tests.faults.chaos.injection import Tell
from tests.faults.chaos.site import CLOCK, Site, Told
from tests.support.names import ITEMS
from tests.support.people import find_in_files

from tailorbird.events.contract.envelope import ANONYMOUS_PREFIX
from tailorbird.events.suppression import RENAMED_PREFIX
from tailorbird.lake import Lake
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.privacy import erase

LEAVERS = ("leaver-number-1", "leaver-number-2")
KINDS = ("view", "click", "purchase", "search", "identify")


def prepare(site: Site) -> None:
    """What the people do who leave, a report that names one, and all of it in state and lake."""
    with site.collector() as collector:
        for user in LEAVERS:
            told = collector.submit(json.dumps(_events(user)).encode())
            assert all(each.accepted for each in told), told
            collector.submit(
                json.dumps({"event_id": f"{user}-bad", "type": "clack", "user_id": user}).encode()
            )
            collector.submit(json.dumps(_events(user)[:2]).encode())
    with InProcessRoles(site.project, CLOCK) as roles:
        roles.drain()
    report = site.project.paths.reports / "page.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(f"<p>{LEAVERS[0]}")


def step(site: Site, tell: Tell) -> None:
    done = erase(site.project, LEAVERS, CLOCK)
    tell(clean=done.is_clean)


def finish(site: Site, told: Told) -> None:
    """The operator gives the same command again. What is wrong is told to the ledger as something
    that was lost.

    Of what the command's own search finds, it tells the operator: the file, and by its exit status
    that it is not done.
    """
    done = erase(site.project, LEAVERS, CLOCK)
    wrong = [] if done.is_clean else ["the erasure found something that it left"]
    told.named_by = "" if done.is_clean else "lake erase"
    wrong += [
        f"left of the erased: {where}"
        for where in find_in_files(site.folder / "shop", b"leaver-number")
    ]
    rows = Lake(site.project.paths.lake).events(["event_id", "person"])
    fresh = [id_ for id_ in rows["event_id"].to_pylist() if id_.startswith(RENAMED_PREFIX)]
    expected = sum(len(_events(user)) for user in LEAVERS)
    wrong += (
        [f"{len(fresh)} events of the erased in the lake, {expected} expected"]
        if len(fresh) != expected
        else []
    )
    strangers = [
        person
        for person in rows["person"].to_pylist()
        if person and person.removeprefix(ANONYMOUS_PREFIX).startswith(RENAMED_PREFIX)
    ]
    wrong += (
        ["events of the erased are tied together"] if len(set(strangers)) != len(strangers) else []
    )
    wrong += (
        ["the journal is left"]
        if (Path(site.project.paths.data) / "erasure" / "journal.json").exists()
        else []
    )
    told.sent.update(fresh)
    told.acked.update(wrong)


def _events(user: str) -> list[dict]:
    number = int(user[-1])
    common = {
        "user_id": user,
        "anonymous_id": f"device-of-{user}",
        "session_id": f"session-of-{user}",
    }
    query = {"properties": {"query": f"a wish of {user}"}}
    return [
        {"event_id": f"{user}-{place}", "type": kind, **common}
        | ({"item_id": ITEMS[(number + place) % 30]} if kind not in ("search", "identify") else {})
        | (query if kind == "search" else {})
        for place, kind in enumerate(KINDS)
    ]
