"""`deploy/` is true to the code and to the published schemas, as far as these are at hand; no
container is started here.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.programs.command_line import assert_parses

from tailorbird.cli.init import init
from tailorbird.cli.main import build_app
from tailorbird.config import load_settings
from tailorbird.config.serve_settings import ServeSection
from tailorbird.events import SECOND, parse_duration
from tailorbird.serving.auth.limits import ServerLimits
from tailorbird.serving.auth.networks import Networks
from tailorbird.serving.http.body import BODY_BYTES_MAX
from tailorbird.serving.http.routes import ROUTES
from tailorbird.serving.server import PORT

yaml = pytest.importorskip("yaml", reason="no PyYAML here")

DEPLOY = Path(__file__).parents[1] / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
SECRET = DEPLOY / "kubernetes" / "secret.yaml.example"
# applied only where several share the entities
WORKERS = sorted((DEPLOY / "kubernetes" / "workers").glob("*.yaml"))
# applied only where a project has a scores.py
SCORE = sorted((DEPLOY / "kubernetes" / "score").glob("*.yaml"))
ROLES = {"serve", "router", "worker", "candidates", "lake", "trainer", "shuffle", "score"}


def documents() -> list[dict[str, Any]]:
    return [
        document
        for path in (*MANIFESTS, *WORKERS, *SCORE, SECRET)
        for document in yaml.safe_load_all(path.read_text())
    ]


def pods() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each pod's specification with each of its containers."""
    for document in documents():
        if document["kind"] in ("Deployment", "StatefulSet"):
            spec = document["spec"]["template"]["spec"]
            yield from ((spec, container) for container in spec["containers"])


def services() -> dict[str, dict[str, Any]]:
    return {
        name: each
        for name, each in yaml.safe_load(COMPOSE.read_text())["services"].items()
        if each["image"].startswith("tailorbird")
    }


def environment() -> dict[str, str]:
    """All variables that manifests set."""
    variables = {
        name: value for each in services().values() for name, value in each["environment"].items()
    }
    for _, container in pods():
        variables |= {
            each["name"]: each["value"] for each in container.get("env", []) if "value" in each
        }
    for document in documents():
        variables |= document.get("data", {}) if document["kind"] == "ConfigMap" else {}
        variables |= document.get("stringData", {})
    return variables


def test_every_role_is_there_by_a_command_that_there_is():
    app = build_app()
    commands = (
        [each["command"] for each in services().values()],
        [container["args"] for _, container in pods()],
    )
    for run_commands in commands:
        assert {words[1] for words in run_commands} == ROLES
        for words in run_commands:
            assert_parses(
                app, shlex.join(["tailorbird", *(word.replace("$(PART)", "3") for word in words)])
            )


def test_with_several_workers_each_part_has_one():
    """Part 0 is the core's; the others are pods whose number is their part."""
    (workers,) = [
        each
        for each in documents()
        if each["metadata"]["name"] == "tailorbird-worker" and each["kind"] == "StatefulSet"
    ]
    assert workers["spec"]["ordinals"]["start"] == 1
    (container,) = workers["spec"]["template"]["spec"]["containers"]
    assert (
        container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"]
        == "metadata.labels['apps.kubernetes.io/pod-index']"
    )
    assert container["args"][2:4] == ["--part", "$(PART)"]
    (core,) = [
        each["args"]
        for _, each in pods()
        if each["name"] == "worker" and "$(PART)" not in each["args"]
    ]
    assert core[2:4] == ["--part", "0"]
    parts = [each["command"][3] for name, each in services().items() if name.startswith("worker")]
    assert sorted(parts) == ["0", "1"]
    assert not [path for path in WORKERS if path.parent == SECRET.parent], (
        "applied with the folder, they would fail where one worker is"
    )


def test_scores_are_deployed_only_on_request():
    """A project without a scores.py has nothing for the role to do: it would end at once, again and
    again.
    """
    optional_roles = {
        name: each.get("profiles")
        for name, each in services().items()
        if each["command"][1] in ("score", "shuffle")
    }
    assert optional_roles == {"score": ["scores"], "shuffle": ["workers"]}
    assert SCORE
    assert not [path for path in SCORE if path.parent == SECRET.parent], (
        "applied with the folder, it would fail where there is no scores.py"
    )
    (score,) = [
        each
        for each in documents()
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "tailorbird-score"
    ]
    assert (score["spec"]["replicas"], score["spec"]["strategy"]) == (1, {"type": "Recreate"}), (
        "one writer of the topic"
    )
    alone = [
        each["spec"]["podSelector"]["matchLabels"]
        for each in documents()
        if each["metadata"]["name"] == "tailorbird-score" and each["kind"] == "NetworkPolicy"
    ]
    assert alone == [score["spec"]["selector"]["matchLabels"]]


def test_every_variable_is_a_setting(tmp_path):
    init(tmp_path / "shop", json=True)
    given = {name: value for name, value in environment().items() if name.startswith("TAILORBIRD_")}
    for name in ("TAILORBIRD_SERVE__WRITE_KEYS", "TAILORBIRD_SERVE__READ_KEYS"):
        assert name in given
        given[name] = "a-key"
    given["TAILORBIRD_FEATURES__WORKERS"] = "4"  # Compose takes it from the shell
    settings, _ = load_settings(tmp_path / "shop" / "tailorbird.toml", given)
    assert settings.stream.url.startswith("kafka://")
    assert settings.store.url.startswith("valkey://")
    assert settings.lake.url.startswith("s3://")


def test_all_that_a_project_may_have_is_there(tmp_path):
    """No file of a project is mounted by itself: one that is left out, such as the contract,
    silently does not hold.
    """
    settings = environment()
    assert (settings["TAILORBIRD_PROJECT"], settings["TAILORBIRD_PROJECT__DATA"]) == (
        "/project",
        "/shop/data",
    )
    for _, container in pods():
        mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
        assert "subPath" not in mounts["/project"]
        assert not [path for path in mounts if path.endswith((".py", ".toml"))]
        assert "/shop/data" in mounts
    for name, each in services().items():
        assert "./project:/project:ro" in [
            volume.partition("  ")[0] for volume in each["volumes"]
        ], name
    folder = tmp_path / "project"
    init(folder, json=True)
    (folder / "contract.toml").write_text("[properties.click]\ncolour = { required = true }\n")
    command = [sys.executable, "-m", "tailorbird", "config", "show", "--json"]
    given = {
        **os.environ,
        "TAILORBIRD_PROJECT": str(folder),
        "TAILORBIRD_PROJECT__DATA": str(tmp_path / "data"),
    }
    done = subprocess.run(
        command, env=given, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "data") in done.stdout


def test_servers_are_given_the_file_of_keys():
    """Keys of pages are in no setting."""
    place = Path(environment()["TAILORBIRD_SERVE__KEYS_FILE"])
    (spec, serve) = next(
        (spec, container) for spec, container in pods() if container["name"] == "serve"
    )
    (mount,) = [each for each in serve["volumeMounts"] if each["mountPath"] == str(place.parent)]
    assert "subPath" not in mount, "such a mount does not follow changes"
    (volume,) = [each for each in spec["volumes"] if each["name"] == mount["name"]]
    assert volume["secret"]["optional"], "a project without such keys has no such Secret"
    assert volume["secret"]["defaultMode"] & 0o040, "read by fsGroup"
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsUser"]
    assert (
        f"kubectl create secret generic {volume['secret']['secretName']} --from-file={place.name} "
        in SECRET.read_text()
    )


@pytest.mark.parametrize(
    "file", [COMPOSE, DEPLOY / "kubernetes" / "config.yaml"], ids=["compose", "kubernetes"]
)
def test_the_setting_for_a_proxy_is_in_every_deployment(tmp_path, file):
    """Nobody else knows which it is, so that it stands there behind a `#`: as YAML of its place,
    and as a setting that is one.
    """
    line = re.compile(r"^( +)# (TAILORBIRD_SERVE__TRUSTED_PROXIES: .*)$", re.MULTILINE)
    text, count = line.subn(r"\1\2", file.read_text())
    assert count == 1
    documents = list(yaml.safe_load_all(text))
    given = (
        documents[0]["services"]["serve"]["environment"]
        if file is COMPOSE
        else documents[0]["data"]
    )
    named = {"TAILORBIRD_SERVE__TRUSTED_PROXIES": given["TAILORBIRD_SERVE__TRUSTED_PROXIES"]}
    init(tmp_path / "shop", json=True)
    settings, _ = load_settings(tmp_path / "shop" / "tailorbird.toml", named)
    assert settings.serve.trusted_proxies
    Networks(settings.serve.trusted_proxies)


def test_a_stopping_server_has_time_to_drain():
    (spec, serve) = next(
        (spec, container) for spec, container in pods() if container["name"] == "serve"
    )
    (drain,) = [
        each["value"] for each in serve["env"] if each["name"] == "TAILORBIRD_SERVE__DRAIN_FOR"
    ]
    assert parse_duration(drain) >= 5 * SECOND, "nodes and balancers need some to hear of it"
    assert parse_duration(drain) + 10 * SECOND <= spec["terminationGracePeriodSeconds"] * SECOND


def test_no_container_is_root_and_only_data_is_writable():
    for spec, container in pods():
        assert spec["securityContext"]["runAsNonRoot"]
        locked = container["securityContext"]
        assert (locked["allowPrivilegeEscalation"], locked["readOnlyRootFilesystem"]) == (
            False,
            True,
        )
        assert locked["capabilities"]["drop"] == ["ALL"]
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert container["resources"]["limits"]["memory"]
    for each in services().values():
        assert each["user"] == "10001"
        assert each["read_only"]
        assert each["cap_drop"] == ["ALL"]
    assert "USER 10001" in (DEPLOY / "Dockerfile").read_text()


def test_probes_ask_routes_that_there_are():
    probes = [
        each["httpGet"]["path"]
        for _, container in pods()
        for name, each in container.items()
        if name.endswith("Probe")
    ]
    assert set(probes) == {"/healthz", "/readyz"}
    assert {(path, "GET") for path in probes} <= set(ROUTES)
    assert "/readyz" in json.dumps(services()["serve"]["healthcheck"])
    for _, container in pods():
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container), container[
            "name"
        ]
        (port,) = container["ports"]
        assert str(port["containerPort"]) in container["args"]
        assert {
            each["httpGet"]["port"] for name, each in container.items() if name.endswith("Probe")
        } == {port["name"]}
    for name, each in services().items():
        (port,) = [word for word in each["command"] if len(word) == 4 and word.isdigit()]
        assert f":{port}/" in each["healthcheck"]["test"][-1], name
    assert not any(
        "0.0.0.0" in each["command"] for name, each in services().items() if name != "serve"
    )


def test_servers_keep_their_names():
    (serve,) = [
        each
        for each in documents()
        if each["kind"] == "StatefulSet" and each["metadata"]["name"] == "tailorbird-serve"
    ]
    headless = [
        each["metadata"]["name"]
        for each in documents()
        if each["kind"] == "Service" and each["spec"].get("clusterIP") == "None"
    ]
    assert serve["spec"]["serviceName"] in headless
    targets = [
        each["spec"]["scaleTargetRef"]
        for each in documents()
        if each["kind"] == "HorizontalPodAutoscaler"
    ]
    assert targets == [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "tailorbird-serve"}]


def test_applying_the_folder_leaves_the_secret_alone():
    # as kubectl chooses
    applied = [
        path for path in SECRET.parent.iterdir() if path.suffix in (".yaml", ".yml", ".json")
    ]
    assert sorted(applied) == MANIFESTS
    kinds = {
        document["kind"] for path in applied for document in yaml.safe_load_all(path.read_text())
    }
    assert "StatefulSet" in kinds
    assert "Secret" not in kinds
    (secret,) = yaml.safe_load_all(SECRET.read_text())
    secret_names = {
        source["secretRef"]["name"]
        for _, container in pods()
        for source in container["envFrom"]
        if "secretRef" in source
    }
    assert secret_names == {secret["metadata"]["name"]}
    assert "TAILORBIRD_EVENTS__PSEUDONYM_KEY" in secret["stringData"]


def test_no_secret_stands_in_a_file():
    for document in documents():
        assert not any(document.get("stringData", {}).values())
    secrets = ("KEY", "SECRET", "PASSWORD")
    for service in yaml.safe_load(COMPOSE.read_text())["services"].values():
        for name, value in service.get("environment", {}).items():
            if any(part in name for part in secrets) and name != "AWS_ACCESS_KEY_ID":
                assert "${" in value, name
                assert ":?" in value, name


def test_manifests_fit_the_schemas_of_kubernetes():
    validate = pytest.importorskip(
        "kubernetes_validate",
        reason="no schemas of Kubernetes here (pip install kubernetes-validate)",
    )
    for document in documents():
        validate.validate(document, validate.latest_version(), strict=True)


def test_the_compose_file_fits_its_schema():
    file = os.environ.get("TAILORBIRD_COMPOSE_SCHEMA", "")
    if not file:
        pytest.skip(
            "no schema of Compose here (TAILORBIRD_COMPOSE_SCHEMA names "
            "schema/compose-spec.json of compose-spec)"
        )
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(yaml.safe_load(COMPOSE.read_text()), json.loads(Path(file).read_text()))


def test_the_units_of_systemd_start_up_on_the_address_that_they_hold():
    service = (DEPLOY / "systemd" / "tailorbird.service").read_text()
    settings = dict(line.split("=", 1) for line in service.splitlines() if "=" in line)
    folder, _, words = settings["ExecStart"].partition(" -C /srv/shop ")
    assert folder.endswith("/tailorbird")
    assert_parses(build_app(), f"tailorbird {words}")
    assert settings["KillMode"] == "process", "servers outlive up"
    assert "-USR2" in settings["ExecReload"]
    assert f"ListenStream=127.0.0.1:{PORT}" in (
        (DEPLOY / "systemd" / "tailorbird.socket").read_text()
    )


def test_nginx_has_the_limits_of_the_server_behind_it():
    text = (DEPLOY / "nginx" / "tailorbird.conf").read_text()
    settings = dict(re.findall(r"(\w+) ([^;{]+);", text))
    assert settings["server"] == f"127.0.0.1:{PORT}"
    assert settings["client_max_body_size"] == f"{BODY_BYTES_MAX >> 20}m"
    assert settings["limit_conn"] == f"addresses {ServerLimits().address_connections}"
    idle = re.search(r"keepalive 32;\s+keepalive_timeout (\w+);", text)
    assert idle, "connections to the server are kept"
    assert parse_duration(idle[1]) < parse_duration(ServeSection().keep_alive), "nginx closes first"


GOLDEN = json.loads((Path(__file__).parent / "golden" / "metrics.json").read_text())["families"]


def unknown_names(expression: str) -> set[str]:
    """The metrics and labels of a Prometheus expression that no role exposes or no rule records."""
    names = re.findall(r"\btailorbird[_:][\w:]+", expression)
    bases = [re.sub(r"(?<=seconds)_(bucket|count)$", "", name) for name in names]
    recorded = {rule["record"] for rule in rules_of("slo.yml") if "record" in rule}
    labels = {label for base in bases if base in GOLDEN for label in GOLDEN[base]["labels"]}
    used = re.findall(r"[{,]\s*(\w+)\s*=", expression)
    for group in re.findall(r"by \(([\w, ]+)\)", expression):
        used += group.split(", ")
    return ({base for base in bases if base not in GOLDEN} - recorded) | (
        set(used) - labels - {"le", "slo"}
    )


def rules_of(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("name", ["alerts.yml", "slo.yml"])
def test_rules_name_metrics_that_exist_and_runbooks_that_exist(name):
    rules = rules_of(name)
    assert {rule["expr"]: found for rule in rules if (found := unknown_names(rule["expr"]))} == {}
    objectives = [rule["labels"]["slo"] for rule in rules if "slo" in rule.get("labels", {})]
    for alert in [rule for rule in rules if "alert" in rule]:
        for objective in objectives or [""]:
            runbook = alert["annotations"]["runbook"].replace("{{ $labels.slo }}", objective)
            page, _, section = runbook.partition("#")
            lines = (DEPLOY.parent / page).read_text().lower().splitlines()
            assert not section or f"## {section}" in lines, runbook


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
def test_promtool_accepts_the_rules_and_their_tests():
    folder = DEPLOY / "prometheus"
    for command in ("check rules alerts.yml slo.yml", "test rules slo_tests.yml"):
        done = subprocess.run(
            ["promtool", *command.split()], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_has_what_grafana_requires_and_metrics_that_exist():
    board = json.loads((DEPLOY / "grafana" / "tailorbird.json").read_text())
    assert {"uid", "title", "schemaVersion", "time", "templating", "panels"} <= board.keys()
    assert [each["type"] for each in board["templating"]["list"]] == ["datasource"]
    places = set()
    for panel in board["panels"]:
        assert {"id", "type", "title", "gridPos", "fieldConfig", "options"} <= panel.keys()
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        places.add((panel["id"], place["x"], place["y"]))
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert unknown_names(target["expr"]) == set(), panel["title"]
            label = re.findall(r"{{(\w+)}}", target["legendFormat"])
            assert unknown_names(f"{target['expr']} by ({', '.join(label) or 'le'})") == set()
    assert len(places) == len(board["panels"]) >= 10
    assert len({y for _, _, y in places}) * 3 == len(places), "three in a row"
    expressions = " ".join(each["expr"] for one in board["panels"] for each in one["targets"])
    for name in ("live_ctr", "live_conversion", "drift_episodes", "rollout_steps", "lag_seconds"):
        assert f"tailorbird_{name}" in expressions
