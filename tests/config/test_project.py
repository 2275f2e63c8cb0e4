from importlib.resources import files
from pathlib import Path

import pytest

from tailorbird.config import find_project, open_project
from tailorbird.errors import ConfigError, DeclarationError, UsageError
from tailorbird.events import DAY, EVENT_TYPES, MINUTE

TEMPLATES = files("tailorbird.platform") / "templates"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TAILORBIRD_PROJECT", raising=False)
    for name in ("tailorbird.toml", "features.py", "slots.py"):
        (tmp_path / name).write_text((TEMPLATES / name).read_text())
    return tmp_path


def test_a_project_is_located_from_any_inner_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = project / "notebooks" / "old"
    deep.mkdir(parents=True)
    assert find_project(deep) == project
    monkeypatch.chdir(deep)
    assert open_project().root == project


def test_the_environment_names_one_from_anywhere(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    with pytest.raises(ConfigError, match=r"no tailorbird\.toml in / or"):
        find_project()
    monkeypatch.setenv("TAILORBIRD_PROJECT", str(project))
    assert find_project() == project


def test_opening_one_touches_no_data(project: Path) -> None:
    before = sorted(project.rglob("*"))
    opened = open_project(project)
    assert opened.paths.lake == project / "data" / "lake"
    assert sorted(project.rglob("*")) == before


def test_the_plan_holds_what_routing_depends_on(project: Path) -> None:
    text = (project / "tailorbird.toml").read_text().replace("types = []", 'types = ["wish"]')
    (project / "tailorbird.toml").write_text(text)
    plan = open_project(project).plan
    assert plan.event_types == (*EVENT_TYPES, "wish")
    assert set(plan.item_attributes) >= {"category", "price"}
    assert (plan.skew_us, plan.lateness_us) == (5 * MINUTE, DAY)
    assert set(plan.slots) == {"home", "search"}


def test_a_type_of_its_own_may_be_counted(project: Path) -> None:
    counted = (
        '\nfrom tailorbird.features import count, entity\nwishes = count("wishes", '
        'entity("user"), "wish", window="7d")\n'
    )
    (project / "features.py").write_text((project / "features.py").read_text() + counted)
    with pytest.raises(DeclarationError, match="'wish' is no event type"):
        open_project(project)
    text = (project / "tailorbird.toml").read_text().replace("types = []", 'types = ["wish"]')
    (project / "tailorbird.toml").write_text(text)
    assert "wishes" in open_project(project).features.numeric


def test_a_type_of_its_own_may_not_be_called_as_the_one_that_merges_users(project: Path) -> None:
    text = (
        (project / "tailorbird.toml").read_text().replace("types = []", 'types = ["wish", "merge"]')
    )
    (project / "tailorbird.toml").write_text(text)
    with pytest.raises(ConfigError, match="merge is built in"):
        open_project(project)


def test_a_slot_by_name_or_the_one_that_is_trained(project: Path) -> None:
    opened = open_project(project)
    assert opened.slot().name == "home"
    assert opened.slot("search").name == "search"
    with pytest.raises(UsageError, match="did you mean search"):
        opened.slot("serch")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("features.py", "from tailorbird.features import count\ncount(", "features.py:2"),
        ("features.py", "\n\n1 / 0\n", "features.py:3"),
        ("features.py", "from tailorbird.features import coun\n", "features.py:1"),
        (
            "slots.py",
            "from tailorbird.ranking import Slot\n\nhome = Slot('home', sise=3)\n",
            "slots.py:3: TypeError",
        ),
        ("slots.py", "def broken(:\n", "slots.py:1: not valid Python"),
        ("slots.py", "x = 1\n", "declares no Slot"),
        (
            "slots.py",
            "from tailorbird.ranking import Slot\na = Slot('home')\nb = Slot('home')\n",
            "two slots are named 'home'",
        ),
    ],
)
def test_a_declaration_that_does_not_load_names_file_and_line(
    project: Path, name: str, text: str, message: str
) -> None:
    (project / name).write_text(text)
    with pytest.raises(DeclarationError) as caught:
        open_project(project)
    assert message in str(caught.value)


def test_missing_files_say_how_to_get_them(project: Path) -> None:
    (project / "slots.py").unlink()
    with pytest.raises(DeclarationError, match="tailorbird init"):
        open_project(project)


def test_a_data_folder_that_is_a_file(project: Path) -> None:
    (project / "data").write_text("")
    with pytest.raises(ConfigError, match=r"project\.data needs a folder"):
        open_project(project)


def test_a_transform_must_learn_from_a_head_of_some_slot(project: Path) -> None:
    features = project / "features.py"
    declared = (
        "from tailorbird.features.transforms import target, "
        'transform\ntransform("category", target("{}"))\n'
    )
    text = features.read_text()
    features.write_text(text + declared.format("purchase"))
    assert open_project(project).features.transforms[0].heads == ("purchase",)
    features.write_text(text + declared.format("buy"))
    line = text.count("\n") + 2
    with pytest.raises(
        DeclarationError,
        match=rf"features.py:{line}: transform: 'buy' is no head of any slot's objective\n.*purchase",
    ):
        open_project(project)


def test_a_path_that_a_url_would_read_otherwise_is_refused(project: Path) -> None:
    folder = project / "a%20b"
    folder.mkdir()
    for name in ("tailorbird.toml", "features.py", "slots.py"):
        (folder / name).write_text((project / name).read_text())
    with pytest.raises(ConfigError, match=r"a%20b.*% and two digits"):
        open_project(folder)
