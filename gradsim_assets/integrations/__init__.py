"""What users put into their own training scripts; needs transformers, and nothing of Dagster."""

from gradsim_assets.integrations.record_checkpoints import RecordCheckpoints

__all__ = ["RecordCheckpoints"]
