from pathlib import Path
from typing import Any

import pytest

from tailorbird.config import Settings, load_settings
from tailorbird.config.settings import SECRET_SETTINGS
from tailorbird.errors import ConfigError


def _write(folder: Path, text: str) -> Path:
    file = folder / "tailorbird.toml"
    file.write_text(text)
    return file


def _shown(file: Path, environ: dict[str, str]) -> dict[str, tuple[Any, str]]:
    _, origins = load_settings(file, environ)
    return {origin.key: (origin.value, origin.source) for origin in origins}


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    settings, origins = load_settings(_write(tmp_path, ""), {})
    assert settings == Settings()
    assert {origin.source for origin in origins} == {"default"}


def test_each_value_has_its_source(tmp_path: Path) -> None:
    file = _write(tmp_path, '# a shop\n[serve]\n  port = 9000\n\n[train]\nwindow = "7d"\n')
    shown = _shown(
        file, {"TAILORBIRD_SERVE__HOST": "127.0.0.2", "TAILORBIRD_SERVE__PORT": "9001", "HOME": "/"}
    )
    assert shown["serve.port"] == (9001, "environment TAILORBIRD_SERVE__PORT")
    assert shown["serve.host"] == ("127.0.0.2", "environment TAILORBIRD_SERVE__HOST")
    assert shown["train.window"] == ("7d", "tailorbird.toml:6")
    assert shown["train.slot"] == ("home", "default")


def test_every_setting_has_a_description(tmp_path: Path) -> None:
    _, origins = load_settings(_write(tmp_path, ""), {})
    assert [origin.key for origin in origins if not origin.description] == []


def test_a_list_in_the_environment_is_split_at_commas(tmp_path: Path) -> None:
    settings, _ = load_settings(
        _write(tmp_path, ""), {"TAILORBIRD_EVENTS__TYPES": "wish, compare,"}
    )
    assert settings.events.types == ["wish", "compare"]


def test_keys_are_shown_as_stars_and_nothing_of_them(tmp_path: Path) -> None:
    file = _write(tmp_path, '[serve]\nread_keys = ["hush"]\n')
    shown = _shown(
        file,
        {"TAILORBIRD_SERVE__WRITE_KEYS": "one,two", "TAILORBIRD_STORE__URL": "valkey://:hush@host"},
    )
    assert shown["serve.read_keys"][0] == ["***"]
    assert shown["serve.write_keys"][0] == ["***", "***"]
    assert shown["store.url"][0] == "***"
    assert set(SECRET_SETTINGS) == {
        key
        for key in shown
        if key.partition(".")[2]
        in (
            "write_keys",
            "read_keys",
            "admin_keys",
            "key_password",
            "sasl_password",
            "password",
            "client",
            "pseudonym_key",
        )
        or key in ("store.url", "store.replica", "checks.alert", "notify.urls")
    }


@pytest.mark.parametrize(
    ("text", "environ", "message"),
    [
        (
            "[serve]\nporrt = 1",
            {},
            "tailorbird.toml:2: unknown key serve.porrt; did you mean serve.port?",
        ),
        (
            "\n[surve]\nport = 1",
            {},
            "tailorbird.toml:2: unknown section surve; did you mean serve?",
        ),
        (
            "[zzz]",
            {},
            "unknown section zzz; known: project, events, serve, stream, router, store, "
            "features, lake, score, checks, search, train, canary",
        ),
        ("[serve]\nport = true", {}, "tailorbird.toml:2: serve.port: expected `int`, got `bool`"),
        ("[serve]\nhost = 1", {}, "serve.host: expected `str`, got `int`"),
        (
            "[events]\ntypes = ['a', 2]",
            {},
            "tailorbird.toml:2: events.types: expected `str`, got `int`",
        ),
        (
            "[events]\nskew = '5 minutes'",
            {},
            "tailorbird.toml:2: events.skew: expected a duration such as 30m, 6h or 7d",
        ),
        ("[train]\ncheck_every = '0s'", {}, "train.check_every: expected a duration"),
        ("[train]\nevery = 'often'", {}, "train.every: expected a duration"),
        ("", {"TAILORBIRD_SERVE__POR": "1"}, "did you mean TAILORBIRD_SERVE__PORT?"),
        (
            "",
            {"TAILORBIRD_SERVE__PORT": "x"},
            "environment TAILORBIRD_SERVE__PORT: serve.port: expected `int`",
        ),
        (
            "",
            {"TAILORBIRD_LAKE__COMMIT_EVERY": "x"},
            "environment TAILORBIRD_LAKE__COMMIT_EVERY: lake.commit_every: expected a duration",
        ),
        (
            "[rollout]\napproval = ['promot']",
            {},
            "'promot'\n  fix: use shadow, canary, promote, roll_back",
        ),
        ("a = ", {}, "not valid TOML"),
        ("serve = 1", {}, "expected a section [serve]"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(
    tmp_path: Path, text: str, environ: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(_write(tmp_path, text), environ)
    assert message in str(caught.value)


def test_a_model_is_retrained_daily_unless_disabled(tmp_path: Path) -> None:
    assert load_settings(_write(tmp_path, ""), {})[0].train.every == "1d"
    assert load_settings(_write(tmp_path, "[train]\nevery = ''"), {})[0].train.every == ""


def test_trainings_may_follow_a_cron_expression(tmp_path: Path) -> None:
    pytest.importorskip("cronsim", reason="no cronsim here")
    text = "[train]\nevery = '0 3 * * *'"
    assert load_settings(_write(tmp_path, text), {})[0].train.every == "0 3 * * *"
    for every in ("0 25 * * *", "0 3 * *", "0 0 30 2 *"):
        with pytest.raises(
            ConfigError, match=r"train\.every: expected a cron expression"
        ) as caught:
            load_settings(_write(tmp_path, f"[train]\nevery = '{every}'"), {})
        assert "0 3 * * *" in caught.value.fix


@pytest.mark.parametrize("text", ["approval = 'human'", "approval = ['human']", ""])
def test_a_person_can_approve_each_step(tmp_path: Path, text: str) -> None:
    environ = {} if text else {"TAILORBIRD_ROLLOUT__APPROVAL": "human"}
    settings = load_settings(_write(tmp_path, f"[rollout]\n{text}"), environ)[0]
    assert settings.rollout.approval == ["shadow", "canary", "promote", "roll_back"]


def test_variables_of_other_parts_are_ignored(tmp_path: Path) -> None:
    environ = {
        f"TAILORBIRD_{name}": "x"
        for name in ("FAULTS", "PROJECT", "DATA", "DEBUG", "PARENT", "CHROMIUM")
    }
    assert load_settings(_write(tmp_path, ""), environ)[0] == Settings()


def test_a_missing_file_suggests_init(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tailorbird init"):
        load_settings(tmp_path / "tailorbird.toml", {})
