"""The manifests of the page: they parse, fit together, and say what trioweb serve takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.support import DOCS, blocks
from trioweb._cli import _serve_options
from trioweb._cli._topics_file import read_topics
from trioweb._policy import Retain


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    [text] = blocks(DOCS / "kubernetes.md", "yaml")
    found = list(yaml.safe_load_all(text))
    assert all(each["apiVersion"] and each["metadata"]["name"] for each in found)
    return {each["kind"]: each for each in found}


def pod(manifests: dict[str, Any]) -> tuple[Any, Any]:
    spec = manifests["Deployment"]["spec"]["template"]["spec"]
    [container] = spec["containers"]
    return spec, container


def settings_of(manifests: dict[str, Any], directory: Path) -> argparse.Namespace:
    """What the server in the pod would be told."""
    _, container = pod(manifests)
    for name, text in manifests["ConfigMap"]["data"].items():
        (directory / name).write_text(text)
    parser = argparse.ArgumentParser()
    settings = _serve_options.add_options(parser)
    args = [arg.replace("/etc/trioweb", str(directory)) for arg in container["args"]]
    return settings.complete(parser.parse_args(args), {})


def test_configuration_is_what_the_server_takes(manifests: dict[str, Any], tmp_path: Path) -> None:
    options = settings_of(manifests, tmp_path)
    _, container = pod(manifests)
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert str(Path(options.topics).parent) in mounts
    assert str(Path(options.api_key_file).parent) in mounts
    assert read_topics(str(tmp_path / Path(options.topics).name), Retain())["chat"].publish
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": 8000, "metrics": options.metrics[1]}
    assert options.host == ["0.0.0.0"]


def test_pod_has_the_time_that_its_end_may_take(manifests: dict[str, Any], tmp_path: Path) -> None:
    options = settings_of(manifests, tmp_path)
    spec, container = pod(manifests)
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    probe = container["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] <= pause
    assert 0 < options.spread <= options.grace
    assert pause + options.grace < spec["terminationGracePeriodSeconds"]


def test_pod_is_not_killed_for_ending_softly_nor_told_of_itself(
    manifests: dict[str, Any],
) -> None:
    spec, container = pod(manifests)
    assert container["livenessProbe"]["httpGet"] == {"path": "/metrics", "port": "metrics"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/healthz"
    assert spec["enableServiceLinks"] is False


def test_names_lead_to_each_other(manifests: dict[str, Any]) -> None:
    spec, container = pod(manifests)
    deployment, service = manifests["Deployment"]["spec"], manifests["Service"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels == service["selector"]
    [rule] = manifests["Ingress"]["spec"]["rules"]
    [path] = rule["http"]["paths"]
    assert path["backend"]["service"]["name"] == manifests["Service"]["metadata"]["name"]
    assert path["backend"]["service"]["port"]["name"] in [p["name"] for p in service["ports"]]
    assert service["ports"][0]["targetPort"] in [port["name"] for port in container["ports"]]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    name = manifests["ConfigMap"]["metadata"]["name"]
    assert volumes["configuration"]["configMap"]["name"] == name
