"""The report: one self-contained HTML page per model, and its headline figures."""

from gradsim_assets.core.report.render import SettingResults, render_report
from gradsim_assets.core.report.words import summary

__all__ = ["SettingResults", "render_report", "summary"]
