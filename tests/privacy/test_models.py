"""What models hold of people beside weights: what items say of them, in the indexes of all
versions.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.support.commands import environment
from tests.support.people import CLOCK, find_in_files
from tests.support.privacy.events import make_click, make_project_with_events
from tests.support.shops import retrieval_shop
from tests.support.shops.evolving_shop import write_clicks_bundle

from tailorbird.config import Project
from tailorbird.privacy import erase
from tailorbird.registry import Registry
from tailorbird.registry.manifest import MANIFEST, Manifest, read_sealed, seal
from tailorbird.retrieval import Index, build_index

pytestmark = pytest.mark.slow

SELLER, NUMBER, LISTED = "annsmith", "417650", "auth0|4711aa"
SAID = [
    (
        "coat",
        {
            "title": "Rain coat",
            "category": "coats",
            "seller": SELLER,
            "text": f"Call {SELLER}!",
            "owner": int(NUMBER),
            "sale": True,
        },
    ),
    (
        "hat",
        {
            "title": "Felt hat",
            "category": "hats",
            "seller": "bob-brown",
            "tags": ["warm", LISTED, "red"],
            "owner": 417651,
        },
    ),
    (
        "cap",
        {
            "title": "Running cap",
            "category": "hats",
            "seller": "bob-brown",
            "tags": [SELLER],
            "owner": 12,
            f"liked by {SELLER}": 3,
        },
    ),
]


def project_with_models(folder: Path) -> Project:
    """A project whose champion, and the version before it, have an index in which items name
    people.
    """
    project = make_project_with_events(
        folder,
        [
            make_click("e1", SELLER),
            make_click("e2", NUMBER),
            make_click("e3", LISTED),
            make_click("e4", "bob-brown"),
        ],
    )
    registry = Registry(project.paths.registry, clock=CLOCK)
    for name in ("before", "now"):
        made = write_clicks_bundle(folder / name, project.features)
        shutil.rmtree(made / "index")
        build_index(
            made / "index",
            retrieval_shop.make_events_table(),
            retrieval_shop.make_items_table(
                [(item, retrieval_shop.AS_OF - 1, said) for item, said in SAID]
            ),
            as_of=retrieval_shop.AS_OF,
        )
        manifest = msgspec.json.decode((made / MANIFEST).read_bytes(), type=Manifest)
        seal(made, msgspec.structs.replace(manifest, files={}))
        registry.promote(registry.add(made, by="test"), by="test", why="to have one")
    return project


def index_of(version: Path) -> Index:
    return Index.load(read_sealed(version).folder("index"))


def found(index: Index, query: str) -> list[str]:
    assert index.text is not None
    rows, _ = index.text.search(query, 10)
    return [index.ids[row] for row in rows.tolist()]


def require_unsaid(project: Project) -> None:
    registry = Registry(project.paths.registry, clock=CLOCK)
    for info in registry.versions():
        registry.verify(info.version)
        index = index_of(info.path)
        row = {name: index.ids.index(name) for name in ("coat", "hat", "cap")}
        text = {
            name: {item: index.attributes[name].text(at) for item, at in row.items()}
            for name in ("seller", "tags", "text", "title")
        }
        assert text["seller"] == {"coat": "", "hat": "bob-brown", "cap": "bob-brown"}
        assert text["tags"] == {"coat": "", "hat": "", "cap": ""}, (
            "an id that holds the sign between texts takes all of them along"
        )
        assert text["text"]["coat"] == ""
        assert text["title"] == {"coat": "Rain coat", "hat": "Felt hat", "cap": "Running cap"}
        owner = index.attributes["owner"]
        assert [float(owner[at]) for at in row.values()] == pytest.approx(
            [np.nan, 417651, 12], nan_ok=True
        )
        assert index.boolean_names == {"sale"}
        assert not [name for name in index.attributes if SELLER in name]
        assert (found(index, SELLER), found(index, "bob-brown")[:2]) == ([], ["hat", "cap"])
        assert found(index, "rain coat")[0] == "coat"


def test_what_items_say_of_somebody_is_in_no_index_any_more(tmp_path: Path) -> None:
    project = project_with_models(tmp_path)
    assert found(index_of(project.paths.registry / "v0001"), SELLER) == ["coat", "cap"]
    done = erase(project, [SELLER, NUMBER, LISTED], CLOCK)
    assert done.is_clean, done.searched.matches
    assert done.counts["models"] == {"rewritten": 2}
    require_unsaid(project)
    assert find_in_files(project.root / "data" / "registry", SELLER.encode(), LISTED.encode()) == []
    before = {
        path: path.read_bytes()
        for path in (project.paths.registry / "v0002").rglob("*")
        if path.is_file()
    }
    assert erase(project, ["bob-green"], CLOCK).counts["models"] == {"rewritten": 0}
    assert before == {
        path: path.read_bytes()
        for path in (project.paths.registry / "v0002").rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("place", ["erase.model_items", "registry.before_alias", "erase.model"])
def test_it_may_be_killed_while_models_are_rewritten(place: str, tmp_path: Path) -> None:
    project = project_with_models(tmp_path)
    command = [
        sys.executable,
        "-m",
        "tailorbird",
        "-C",
        str(project.root),
        "lake",
        "erase",
        "-",
        "--yes",
        "--json",
    ]
    ids = f"{SELLER}\n{NUMBER}\n{LISTED}\n"
    killed = subprocess.run(
        command,
        input=ids,
        env=environment(TAILORBIRD_FAULTS=f"{place}=kill"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    done = subprocess.run(
        command,
        input=ids,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout)["clean"]) == (0, True), done.stderr
    require_unsaid(project)


def test_a_damaged_version_is_left_as_it_is(tmp_path: Path) -> None:
    project = project_with_models(tmp_path)
    items = project.paths.registry / "v0001" / "index" / "items.arrow"
    os.truncate(items, items.stat().st_size - 8)
    done = erase(project, [SELLER], CLOCK)
    assert done.counts["models"] == {"rewritten": 1}
    assert [Path(one).name for one in done.left] == ["items.arrow"], "it is told"
