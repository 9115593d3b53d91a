"""The pages that `gradsim ui` serves beside Dagster's UI: one router a concern; nothing here ends anything, and nothing but traces is written."""
