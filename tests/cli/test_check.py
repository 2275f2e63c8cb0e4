"""`tailorbird check` finds what `up` would end with."""

import subprocess
import sys

import pytest

from tailorbird.cli.init import init
from tailorbird.config import open_project
from tailorbird.errors import DeclarationError, TailorbirdError
from tailorbird.platform.diagnostics.declarations import check_churn, check_settings, check_slots
from tailorbird.version import __version__

WRONG = {
    "serve.gorse_slot": '[serve]\ngorse_slot = "nope"',
    "serve.trusted_proxies": '[serve]\ntrusted_proxies = ["nonsense"]',
    "events.pseudonym_key": '[events]\npseudonym_key = "short"',
    "store.url": '[store]\nurl = "http://x"',
    "store.replica": '[store]\nurl = "valkey://x"\nreplica = "http://y"',
    "project.data": '[project]\ndata = "/"',
    "events.skew": '[events]\nskew = "9999999d"',
    "stream.client": '[stream]\nurl = "kafka://localhost:1/x"\nclient = '
    '["default.topic.config=acks:0"]',
    "serve.write_keys": '[serve]\nwrite_keys = ["abc"]',
    "serve.host": '[serve]\nhost = "0.0.0.0"',
    "serve.allowed_origins": '[serve]\nallowed_origins = ["shop.example"]',
    "stream.ca_file": '[stream]\nurl = "kafka://localhost:1/x"\ntls = true\nca_file = '
    '"no-such.pem"',
    "nosuch": '[stream]\nurl = "kafka://localhost:1/x"\nclient = ["nosuch=1"]',
    "checks.alert": '[checks]\nalert = "no-such-program-anywhere now"',
}


@pytest.mark.parametrize("setting", WRONG)
def test_a_setting_that_stops_a_role_is_reported(setting, tmp_path):
    init(tmp_path / "shop", json=True)
    (tmp_path / "shop" / "tailorbird.toml").write_text(WRONG[setting])
    with pytest.raises(TailorbirdError) as caught:
        check_settings(open_project(tmp_path / "shop"))
    assert setting in str(caught.value)


def test_what_init_writes_is_fine(tmp_path):
    init(tmp_path / "shop", json=True)
    project = open_project(tmp_path / "shop")
    check_settings(project)
    check_slots(project)


def test_a_rule_that_does_not_parse_is_reported(tmp_path):
    init(tmp_path / "shop", json=True)
    slots = tmp_path / "shop" / "slots.py"
    slots.write_text(slots.read_text().replace("item.stock > 0", "item.is_hidden != true"))
    with pytest.raises(TailorbirdError, match="is_hidden"):
        check_slots(open_project(tmp_path / "shop"))


def test_version_prints_the_package_version(tmp_path):
    program = [sys.executable, "-m", "tailorbird"]
    result = subprocess.run(
        [*program, "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == __version__
    refused = subprocess.run(
        [*program, "lake", "events", "--version", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert refused.returncode == 2
    assert "--version" in refused.stderr


CHURN = (
    'from tailorbird.ranking import Churn\n\nchurn = Churn(types=("purchase",), '
    'recency="since", frequency="bought", age="age")\n'
)
COLUMNS = """
from tailorbird.features import count, time_since, time_since_first

since = time_since("since", user, "purchase")
bought = count("bought", user, "purchase")
age = time_since_first("age", user, "purchase")
"""


def test_columns_of_a_churn_model_are_checked(tmp_path):
    init(tmp_path / "shop", json=True)
    (tmp_path / "shop" / "churn.py").write_text(CHURN)
    features = tmp_path / "shop" / "features.py"
    original = features.read_text()
    for _ in range(3):  # each refusal says the next line, until all is there
        with pytest.raises(DeclarationError, match="is no column of features") as caught:
            check_churn(open_project(tmp_path / "shop"))
        imported, line = (
            "from tailorbird.features import *\n",
            caught.value.fix.removeprefix("add to features.py: "),
        )
        features.write_text(features.read_text() + imported + line + "\n")
    check_churn(open_project(tmp_path / "shop"))

    features.write_text(original + COLUMNS)
    check_churn(open_project(tmp_path / "shop"))
    features.write_text(original + COLUMNS.replace("bought", "boughts"))
    with pytest.raises(DeclarationError, match="did you mean boughts"):
        check_churn(open_project(tmp_path / "shop"))


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (
            CHURN.replace('"since"', '"item_clicks_7d"'),
            'user_item_clicks_7d = time_since("user_item_clicks_7d", entity("user"), "purchase")',
        ),
        (CHURN.replace("age=", 'leave_out=("age",), age='), "take it out of leave_out"),
        (
            CHURN.replace("age=", 'amount="spent", age='),
            'spent = total("spent", entity("user"), "purchase", of="price")',
        ),
    ],
)
def test_check_suggests_a_declaration_for_a_column_of_a_churn_model(tmp_path, wrong, expected):
    init(tmp_path / "shop", json=True)
    features = tmp_path / "shop" / "features.py"
    features.write_text(features.read_text() + COLUMNS)
    (tmp_path / "shop" / "churn.py").write_text(wrong)
    with pytest.raises(DeclarationError) as caught:
        check_churn(open_project(tmp_path / "shop"))
    assert expected in caught.value.fix
