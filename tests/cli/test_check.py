"""`tailorbird check` finds what `up` would end with."""

import subprocess
import sys

import pytest

from tailorbird.cli.check import check_settings, check_slots
from tailorbird.cli.init import init
from tailorbird.config import open_project
from tailorbird.errors import TailorbirdError
from tailorbird.version import __version__

WRONG = {
    "serve.gorse_slot": '[serve]\ngorse_slot = "nope"',
    "serve.proxies": '[serve]\nproxies = ["nonsense"]',
    "events.pseudonym_key": '[events]\npseudonym_key = "short"',
    "store.url": '[store]\nurl = "http://x"',
    "store.replica": '[store]\nurl = "valkey://x"\nreplica = "http://y"',
    "project.data": '[project]\ndata = "/"',
    "events.skew": '[events]\nskew = "9999999d"',
    "stream.client": '[stream]\nurl = "kafka://localhost:1/x"\nclient = ["default.topic.config=acks:0"]',
    "serve.write_keys": '[serve]\nwrite_keys = ["abc"]',
    "serve.host": '[serve]\nhost = "0.0.0.0"',
    "serve.origins": '[serve]\norigins = ["shop.example"]',
    "stream.ca_file": '[stream]\nurl = "kafka://localhost:1/x"\ntls = true\nca_file = "no-such.pem"',
    "nosuch": '[stream]\nurl = "kafka://localhost:1/x"\nclient = ["nosuch=1"]',
    "checks.alert": '[checks]\nalert = "no-such-program-anywhere now"',
}


@pytest.mark.parametrize("setting", WRONG)
def test_a_setting_that_stops_a_role_is_found(setting, tmp_path):
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


def test_a_rule_that_does_not_parse_is_found(tmp_path):
    init(tmp_path / "shop", json=True)
    slots = tmp_path / "shop" / "slots.py"
    slots.write_text(slots.read_text().replace("item.stock > 0", "item.is_hidden != true"))
    with pytest.raises(TailorbirdError, match="is_hidden"):
        check_slots(open_project(tmp_path / "shop"))


def test_the_version_is_of_the_whole(tmp_path):
    program = [sys.executable, "-m", "tailorbird"]
    told = subprocess.run([*program, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == __version__
    refused = subprocess.run([*program, "lake", "events", "--version", "0"], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert refused.returncode == 2
    assert "--version" in refused.stderr
