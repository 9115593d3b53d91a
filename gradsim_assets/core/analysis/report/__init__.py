"""The report: one self-contained HTML page per model, and its headline figures."""

from gradsim_assets.core.analysis.report.page import render_report
from gradsim_assets.core.analysis.report.sentences import summary
from gradsim_assets.core.analysis.report.setting_results import SettingResults

__all__ = ["SettingResults", "render_report", "summary"]
