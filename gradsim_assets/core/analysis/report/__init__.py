"""The report: one self-contained HTML page per model, and its headline figures."""

from gradsim_assets.core.analysis.report.page import SettingResults, render_report
from gradsim_assets.core.analysis.report.sentences import summary

__all__ = ["SettingResults", "render_report", "summary"]
