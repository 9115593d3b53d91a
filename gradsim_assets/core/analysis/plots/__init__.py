"""Plots of the analyses: `static` (matplotlib, for the UI and papers), `interactive` (plotly, for the report)."""
