"""Specs, checks, jobs, sensors and schedules as they are; `python -m gradsim_assets_tests.defs.test_specs_snapshot` renews it."""

import json
from pathlib import Path
from typing import Any

from gradsim_assets.configuration import Settings
from gradsim_assets.definitions import build_definitions

SNAPSHOT = Path(__file__).parent / "specs_snapshot.json"


def described() -> dict[str, Any]:
    """What users and scripts rely on; no code versions, which change with every commit."""
    repository = build_definitions(Settings(home=Path("/home"), tables="/tables")).get_repository_def()
    graph = repository.asset_graph
    assets = {}
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        assets[key.to_user_string()] = {
            "group": node.group_name,
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "partitions": type(node.partitions_def).__name__ if node.partitions_def else None,
            "kinds": sorted(node.kinds),
            "cost": node.tags.get("cost"),
            "pools": sorted(node.pools or []) if hasattr(node, "pools") else [],
            "automation": node.automation_condition.get_label() if node.automation_condition else None,
            "checks": {
                check.name: "blocking" if graph.get(check).blocking else "warning"
                for check in sorted(node.check_keys, key=lambda check: check.name)
            },
        }
    return {
        "assets": assets,
        "jobs": {
            name: sorted(key.to_user_string() for key in repository.get_job(name).asset_layer.selected_asset_keys)
            for name in sorted(repository.job_names)
            if not name.startswith("__")
        },
        "sensors": {s.name: [s.default_status.value, s.minimum_interval_seconds] for s in repository.sensor_defs},
        "schedules": {s.name: [s.default_status.value, s.cron_schedule] for s in repository.schedule_defs},
    }


def test_specs_are_as_they_were() -> None:
    assert described() == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(described(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
