"""What `docker/` holds fits the service: names of metrics, settings, paths and ports."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import ValidationError, validate
from prometheus_client.parser import text_string_to_metric_families

from app.api import create_app
from app.errors import ConfigurationError
from app.settings import Settings
from app.store import AnswerStore
from app.store.bookings import LAST_S
from app.store.keys import Keys
from app.traces import FLUSH_S
from tests.conftest import settings
from tests.serving import serve

DOCKER = Path(__file__).parents[1] / "docker"
MANIFESTS = sorted((DOCKER / "kubernetes").glob("*.yaml"))


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def manifest(name: str) -> Any:
    (one,) = documents(DOCKER / "kubernetes" / f"{name}.yaml")
    return one


def expressions() -> Iterator[str]:
    """All that Grafana and the alerts ask Prometheus."""
    board = json.loads((DOCKER / "grafana/dashboards/starboard.json").read_text())
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["query"]["query"] for variable in board["templating"]["list"])
    (alerts,) = documents(DOCKER / "prometheus/alerts.yml")
    yield from (rule["expr"] for group in alerts["groups"] for rule in group["rules"])


async def test_dashboard_and_alerts_ask_for_what_is_told(scripted: Settings) -> None:
    async with serve(create_app(scripted)) as client:
        await client.post("/answer", json={"prompt": "Which?"})
        text = (await client.get("/metrics")).text
    # Scripted members bill no tokens.
    told = {"starboard_member_tokens_total": {"member", "direction"}}
    for sample in (s for family in text_string_to_metric_families(text) for s in family.samples):
        told.setdefault(sample.name, set()).update(sample.labels)
    asked = [(name, e) for e in expressions() for name in re.findall(r"starboard_\w+", e)]
    assert len(asked) > 20
    for name, expression in asked:
        assert name in told, expression
        matchers = re.search(name + r"\{([^}]*)\}", expression)
        for label in re.findall(r"(\w+)[!=~]+\"", matchers[1] if matchers else ""):
            assert label in told[name], expression


def test_dashboard_panels_do_not_overlap() -> None:
    board = json.loads((DOCKER / "grafana/dashboards/starboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("version", ["1.25", "1.37"])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_manifest_is_what_kubernetes_takes(path: Path, version: str) -> None:
    """Its own schemas, strictly: a field that is misspelt would be dropped by the cluster."""
    for document in documents(path):
        if document["kind"] == "Kustomization":  # a client's file, which has no schema there
            continue
        validate(document, version, strict=True)
        with pytest.raises(ValidationError, match="unexpected"):
            validate({**document, "sepc": {}}, version, strict=True)


def test_the_kustomization_names_every_manifest_but_what_is_applied_by_hand() -> None:
    by_hand = {"kustomization.yaml", "secret.example.yaml", "keys.yaml"}
    kustomization = manifest("kustomization")
    assert set(kustomization["resources"]) == {path.name for path in MANIFESTS} - by_hand
    (image,) = kustomization["images"]
    (container,) = manifest("keys")["spec"]["containers"]
    assert container["image"] == f"{image['newName']}:{image['newTag']}"


def test_the_label_by_which_the_migration_is_applied_first_is_its_alone() -> None:
    commands = (DOCKER.parent / "docs/operating.md").read_text()
    (label,) = re.findall(r"kubectl apply -k docker/kubernetes -l app=(\S+)", commands)
    found = {
        name: manifest(Path(name).stem)["metadata"].get("labels", {}).get("app")
        for name in manifest("kustomization")["resources"]
    }
    assert [name for name, app in found.items() if app == label] == ["migration.yaml"]


async def test_probes_ask_what_is_served(scripted: Settings) -> None:
    (container,) = manifest("deployment")["spec"]["template"]["spec"]["containers"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    async with serve(create_app(scripted)) as client:
        for probe in probes.values():
            assert (await client.get(probe["httpGet"]["path"])).status_code == 200
    assert probes["liveness"]["httpGet"]["path"] != probes["readiness"]["httpGet"]["path"]


def test_the_settings_of_the_cluster_are_settings_and_a_pod_has_time_to_stop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = {**manifest("configmap")["data"], **manifest("secret.example")["stringData"]}
    file = data.pop("starboard.toml")
    tomllib.loads(file)
    (tmp_path / "cluster.toml").write_text(file)
    for name, value in (data | {"STARBOARD_CONFIG": str(tmp_path / "cluster.toml")}).items():
        assert name.startswith(("STARBOARD_", "OTEL_")) or name.endswith("_API_KEY")
        monkeypatch.setenv(name, value)
    ours = settings()
    assert (ours.log_format, ours.drain_s) == ("json", 10)
    grace = manifest("deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > ours.drain_s + ours.deadline_s + 5 + LAST_S + FLUSH_S


async def test_compose_on_a_port_of_this_machine_has_an_open_door_and_in_production_none(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base,), (more,) = (documents(DOCKER / f"compose{n}.yaml") for n in ("", ".production"))
    first, second = (file["services"]["starboard"] for file in (base, more))
    assert all(port.startswith("127.0.0.1:") for port in first["ports"])
    assert "ports" not in second
    monkeypatch.setenv("STARBOARD_AUTH", first["environment"]["STARBOARD_AUTH"])
    ours = settings(host="::", database_url=database_url)
    async with serve(create_app(ours)) as client:
        assert (await client.get("/models")).status_code == 200
    assert seconds_to_stop(first) > ours.drain_s + ours.deadline_s + 5 + LAST_S + FLUSH_S

    monkeypatch.setenv("STARBOARD_AUTH", second["environment"]["STARBOARD_AUTH"])
    ours = settings(host="::", database_url=database_url)
    app = create_app(ours)
    with pytest.raises(ConfigurationError, match="starboard keys create"):
        async with app.router.lifespan_context(app):
            pass
    async with AnswerStore.open(database_url) as store:
        await Keys(store.database).create("admin", ["admin"])
    async with serve(create_app(ours)) as client:
        assert (await client.get("/models")).status_code == 401


def seconds_to_stop(service: Any) -> int:
    return int(service["stop_grace_period"].removesuffix("s"))


def test_compose_adds_to_services_that_are_there() -> None:
    (base,), (more,) = (documents(DOCKER / f"compose{n}.yaml") for n in ("", ".production"))
    assert "starboard" in base["services"]
    environment = more["services"]["starboard"]["environment"]
    ours = {name.lower().removeprefix("starboard_") for name in environment if "OTEL" not in name}
    assert ours <= set(Settings.model_fields)
    for service in more["services"].values():
        named = [volume for volume in service.get("volumes", ()) if not volume.startswith(".")]
        assert {volume.split(":")[0] for volume in named} <= set(more["volumes"])
        for volume in service.get("volumes", ()):
            assert not volume.startswith(".") or (DOCKER / volume.split(":")[0]).is_dir()
    (prometheus,) = documents(DOCKER / "prometheus/prometheus.yml")
    assert prometheus["scrape_configs"][0]["static_configs"][0]["targets"] == ["starboard:8000"]
    assert all((DOCKER / "prometheus" / name).is_file() for name in prometheus["rule_files"])
