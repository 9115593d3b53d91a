"""The pages that `gradsim ui` serves beside Dagster's UI: one router a concern; nothing here writes or ends anything."""
