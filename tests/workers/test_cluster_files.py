"""The cluster files are read by those who will read them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

CLUSTER = Path(__file__).parents[2] / "workers" / "cluster"


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return found


def test_ray_accepts_the_cloud_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(read("ray_up.yaml")))


def test_the_kubernetes_file_names_the_ray_version_that_is_tested() -> None:
    constraints = (CLUSTER.parents[1] / "constraints.txt").read_text()
    version = read("kuberay.yaml")["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"ray=={version}" in constraints.split()


def test_bash_accepts_the_slurm_script() -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / "slurm.sh")], check=True)
