"""The debt of models as a report: for the terminal, as JSON, and as one HTML page that needs nothing else."""

from __future__ import annotations

from lineage.report.debt import DebtReport, ModelDebt, debt_report
from lineage.report.page import as_html

__all__ = ["DebtReport", "ModelDebt", "as_html", "debt_report"]
