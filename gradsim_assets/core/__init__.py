"""Pure computation: nothing here imports dagster."""
