"""What answers of others logged stays comparable with the lake after an erasure, or is said not to
be.
"""

import json
from pathlib import Path

import pytest
from tests.cli.kit import must
from tests.faults.roles import make_project
from tests.privacy.kit import CLOCK
from tests.privacy.test_merged import merge
from tests.privacy.test_people import click, sent

from tailorbird.config import open_project
from tailorbird.features.recompute import parity
from tailorbird.lake import Lake
from tailorbird.platform.inprocess import InProcess
from tailorbird.platform.roles import Roles
from tailorbird.privacy import erase
from tailorbird.serving.door import Door
from tailorbird.serving.messages import Context, RecommendQuery

pytestmark = pytest.mark.slow

ID = "canary.ann@example.com"


def test_answers_with_an_item_whose_category_is_erased_are_left_out_of_the_comparison(
    tmp_path: Path,
) -> None:
    items = [
        {
            "event_id": f"p{n}",
            "type": "item",
            "item_id": f"i{n}",
            "properties": {"category": ID if n == 4 else "c", "price": 1.0, "stock": 9},
        }
        for n in range(1, 7)
    ]
    clicks = [click(f"c{n}", f"other-{n % 3}") | {"item_id": f"i{1 + n % 6}"} for n in range(12)]
    project = sent(tmp_path, [*items, *clicks, click("e1", ID)])
    with (
        Door(project.stream, "serve-1", project.plan, CLOCK) as door,
        Roles(project, CLOCK) as roles,
    ):
        parts = InProcess(project, CLOCK, door=door, seed=1)
        for n in range(3):
            parts.pipeline.answer(RecommendQuery(slot="home", user_id=f"other-{n}"))
        parts.close()
        door.close()
        roles.drain()
    lake = Lake(project.paths.lake)
    before = parity(project.features, lake.table("events"), lake.table("answers"))
    assert (before.answers, before.unequal) == (3, 0), before.examples
    assert any("i4" in shown for shown in lake.table("answers")["items"].to_pylist())
    done = erase(project, [ID], CLOCK)
    assert done.clean, done.searched.found
    lake = Lake(project.paths.lake)
    answers = lake.table("answers")
    after = parity(project.features, lake.table("events"), answers)
    assert after.unequal == 0, after.examples
    assert (
        parity(project.features, lake.table("events"), answers.drop_columns(["degraded"])).unequal
        > 0
    ), "what is said is needed"
    columns = (answers[name].to_pylist() for name in ("items", "degraded"))
    told = [
        ("i4" in shown, "erased" in (degraded or ()))
        for shown, degraded in zip(*columns, strict=True)
    ]
    assert all(shown == said for shown, said in told)
    assert after.answers + after.skipped == 3
    must("-C", project.root, "features", "verify")


def test_answers_of_whom_somebody_was_for_a_while_are_left_out_of_the_comparison(
    tmp_path: Path,
) -> None:
    profile = {"category": "c", "price": 1.0, "stock": 9}
    events = [
        {"event_id": f"p{n}", "type": "item", "item_id": f"i{n}", "properties": profile}
        for n in range(1, 4)
    ]
    events += [click(f"c{n}", "other-1") for n in range(3)]
    events += [
        merge("m1", "hanna-8", "ida-9"),
        click("e1", "hanna-8"),
        click("e2", "hanna-8"),
        click("e3", "ida-9"),
    ]
    project = sent(tmp_path, events)
    with (
        Door(project.stream, "serve-1", project.plan, CLOCK) as door,
        Roles(project, CLOCK) as roles,
    ):
        parts = InProcess(project, CLOCK, door=door, seed=1)
        for user in ("other-1", "ida-9", "hanna-8"):
            parts.pipeline.answer(RecommendQuery(slot="home", user_id=user))
        parts.close()
        door.close()
        roles.drain()
    with Door(project.paths.stream, "serve-1", project.plan, CLOCK) as door:
        door.submit(json.dumps(merge("m2", "hanna-8", "hanna-8")).encode())
    with Roles(project, CLOCK) as roles:
        roles.drain()
    lake = Lake(project.paths.lake)
    before = parity(project.features, lake.table("events"), lake.table("answers"))
    assert (before.answers, before.unequal) == (3, 0), before.examples
    assert erase(project, ["hanna-8"], CLOCK).clean
    lake = Lake(project.paths.lake)
    answers = lake.table("answers")
    told = ["erased" in (degraded or ()) for degraded in answers["degraded"].to_pylist()]
    assert dict(zip(answers["person"].to_pylist(), told, strict=True)) == {
        "other-1": False,
        "ida-9": True,
    }
    after = parity(project.features, lake.table("events"), answers)
    assert (after.answers, after.unequal) == (1, 0), after.examples
    assert (
        parity(project.features, lake.table("events"), answers.drop_columns(["degraded"])).unequal
        > 0
    ), "what is said is needed"


@pytest.mark.parametrize(
    "counted",
    [
        "",
        'from tailorbird.features import distinct\ndevices = distinct("devices", item, '
        '"click", of="device", window="28d")\n',
    ],
)
@pytest.mark.parametrize("field", ["user.age_group", "device", "country"])
def test_answers_that_read_the_state_of_a_text_that_goes_are_left_out_of_the_comparison(
    field: str, counted: str, tmp_path: Path
) -> None:
    root = make_project(tmp_path / "shop").root
    more = (
        f'\ngroup_clicks = count("group_clicks", entity("{field}"), "click", '
        f'window="28d")\n{counted}'
    )
    (root / "features.py").write_text((root / "features.py").read_text() + more)
    project = open_project(root)
    rare = {"device": "tablet", "country": "NO"}
    profile = {"category": "c", "price": 1.0, "stock": 9}
    events = [
        {"event_id": f"p{n}", "type": "item", "item_id": f"i{n}", "properties": profile}
        for n in range(1, 4)
    ]
    groups = {"other-1": "40s", "other-2": "20s", "hanna-8": "40s"}
    events += [
        {"event_id": f"u-{one}", "type": "user", "user_id": one, "properties": {"age_group": age}}
        for one, age in groups.items()
    ]
    events += [
        click(f"c{one}-{n}", one, context=rare if age == "40s" else {})
        for one, age in groups.items()
        for n in range(3)
    ]
    with (
        Door(project.stream, "serve-1", project.plan, CLOCK) as door,
        Roles(project, CLOCK) as roles,
    ):
        assert all(one.accepted for one in door.submit(json.dumps(events).encode()))
        roles.drain()
        parts = InProcess(project, CLOCK, door=door, seed=1)
        for user in ("other-1", "other-2"):
            context = Context(**rare) if groups[user] == "40s" else Context()
            parts.pipeline.answer(RecommendQuery(slot="home", user_id=user, context=context))
        parts.close()
        door.close()
        roles.drain()
    lake = Lake(project.paths.lake)
    before = parity(project.features, lake.table("events"), lake.table("answers"))
    assert (before.answers, before.unequal) == (2, 0), before.examples
    assert erase(project, ["hanna-8"], CLOCK).clean
    lake = Lake(project.paths.lake)
    answers = lake.table("answers")
    told = ["erased" in (degraded or ()) for degraded in answers["degraded"].to_pylist()]
    assert dict(zip(answers["person"].to_pylist(), told, strict=True)) == {
        "other-1": True,
        "other-2": False,
    }
    after = parity(project.features, lake.table("events"), answers)
    assert (after.answers, after.unequal) == (1, 0), after.examples
    assert (
        parity(project.features, lake.table("events"), answers.drop_columns(["degraded"])).unequal
        > 0
    ), "what is said is needed"


def test_a_text_that_is_counted_and_tells_states_apart_stays_where_enough_others_have_it(
    tmp_path: Path,
) -> None:
    root = make_project(tmp_path / "shop").root
    more = """
group_clicks = count("group_clicks", entity("device"), "click", window="28d")
from tailorbird.features import distinct
devices = distinct("devices", item, "click", of="device", window="28d")
on_phones = count("on_phones", item, "click", where="device == 'phone'", window="28d")
"""
    (root / "features.py").write_text((root / "features.py").read_text() + more)
    project = open_project(root)
    profile = {"category": "c", "price": 1.0, "stock": 9}
    events = [
        {"event_id": f"p{n}", "type": "item", "item_id": f"i{n}", "properties": profile}
        for n in range(1, 4)
    ]
    events += [
        click(f"c{one}-{n}", one, context={"device": "phone"})
        for one in ("hanna-8", *map(str, range(12)))
        for n in range(2)
    ]
    with (
        Door(project.stream, "serve-1", project.plan, CLOCK) as door,
        Roles(project, CLOCK) as roles,
    ):
        assert all(one.accepted for one in door.submit(json.dumps(events).encode()))
        roles.drain()
        parts = InProcess(project, CLOCK, door=door, seed=1)
        parts.pipeline.answer(
            RecommendQuery(slot="home", user_id="1", context=Context(device="phone"))
        )
        parts.close()
        door.close()
        roles.drain()
    assert erase(project, ["hanna-8"], CLOCK).clean
    lake = Lake(project.paths.lake)
    after = parity(project.features, lake.table("events"), lake.table("answers"))
    assert (after.answers, after.unequal) == (1, 0), after.examples
    assert set(lake.table("events")["device"].drop_null().to_pylist()) == {"phone"}
