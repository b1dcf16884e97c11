"""A run's figures at the metrics endpoint of a real Ray node, as Prometheus would scrape them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from orchestrator.reporting.prometheus import QUANTITIES

# A Ray of its own with a metrics endpoint.
pytestmark = [pytest.mark.ray, pytest.mark.long]

pytest.importorskip("prometheus_client", reason="Ray exports nothing without ray[default]")

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0
# Unseen on CPUs, and in a run in which nothing fails.
ABSENT = {
    "tandem_mfu_ratio",
    "tandem_restarts_total",
    "tandem_restart_seconds_total",
    "tandem_replay_seconds_total",
}
# Stays after its run until the line on stdin, so that what it recorded is still there.
RUN = """
import json, sys, ray
from orchestrator.settings.config import load_config
from orchestrator.run import train
ray.init(
    address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
    logging_level="CRITICAL", _system_config={"metrics_report_interval_ms": 1000},
)
result = train(load_config(sys.argv[1], sys.argv[2:]))
node = next(iter(ray.nodes()))
print(json.dumps({
    "port": node["MetricsExportPort"], "host": node["NodeManagerAddress"],
    "summary": result.summary,
}), flush=True)
sys.stdin.readline()
"""

Samples = dict[tuple[str, str, str, str], float]  # name, run, group, rank


def scrape(host: str, port: int) -> Samples:
    """The samples of Tandem's metrics by name and labels; other labels are left out."""
    from prometheus_client.parser import text_string_to_metric_families

    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (s.name, *(s.labels.get(label, "") for label in ("run", "group", "rank"))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.name.startswith("ray_tandem_")
    }


def scrape_until(wanted: set[str], host: str, port: int) -> Samples:
    """The samples once all names are there.

    Ray drops a gauge for a moment where a busy machine is late with two reports.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        samples = scrape(host, port)
        if wanted <= {key[0] for key in samples}:
            return samples
        assert time.monotonic() < deadline, wanted - {key[0] for key in samples}
        time.sleep(0.5)


def test_what_a_run_records_is_at_the_endpoint_of_its_node(workplace: Path, own_tmp: Path) -> None:
    settings = [str(workplace / "tiny.yaml"), "name=scraped", "data.workers.num_workers=2"]
    settings += ["data.workers.cpus=0.5", "checkpoints.every=1"]
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, *settings],
        cwd=ROOT, env={**os.environ}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        # Ray writes there too, where a process is lost.
        line = next((line for line in process.stdout if line.startswith("{")), "")
        assert line, process.stderr and process.stderr.read()
        told = json.loads(line)
        if told["port"] <= 0:
            pytest.skip("this Ray has no metrics endpoint (no ray[default])")
        wanted = {q.exposed for q in QUANTITIES if q.name not in ABSENT}
        scrape_until(wanted, told["host"], told["port"])
        time.sleep(5.0)  # more than two reports: a gauge that is not set again must stay
        samples = scrape_until(wanted, told["host"], told["port"])
    finally:
        process.communicate("\n", timeout=60)
    assert {key[0] for key in samples} == wanted
    summary = told["summary"]
    of_data = ("scraped", "data")
    tokens = [samples["ray_tandem_tokens_total", *of_data, rank] for rank in "01"]
    assert sum(tokens) == summary["data"]["tokens"]
    assert min(tokens) > 0
    assert samples["ray_tandem_steps_total", *of_data, ""] == summary["data"]["steps"]
    assert samples["ray_tandem_interval", *of_data, ""] == 3
    assert samples["ray_tandem_version", *of_data, ""] == 3
    assert samples["ray_tandem_planned_intervals", "scraped", "", ""] == 3
    published = sum(v for k, v in samples.items() if k[0] == "ray_tandem_published_bytes_total")
    assert 0 < published < summary["exchange"]["bytes"]  # which counts the two of the start too
