"""Predictions -> errors, baselines on the same rows, and how far to trust their differences."""

from persona_lab.evaluation.audit import Audit, auditing
from persona_lab.evaluation.beyond import beyond
from persona_lab.evaluation.claims import Judged, TableRow, judge
from persona_lab.evaluation.contrast import Contrast, Verdict, adjust, contrast, rows_key, varies
from persona_lab.evaluation.metrics import assess, intervals, matrix, off_diagonal, score
from persona_lab.evaluation.predictors import Baselines, baselines, predicting
from persona_lab.evaluation.result import Result, Row, adapter_records, row_id
from persona_lab.evaluation.uncertainty import Difference, SeedVariance

__all__ = [
    "Audit",
    "Baselines",
    "Contrast",
    "Difference",
    "Judged",
    "Result",
    "Row",
    "SeedVariance",
    "TableRow",
    "Verdict",
    "adapter_records",
    "adjust",
    "assess",
    "auditing",
    "baselines",
    "beyond",
    "contrast",
    "intervals",
    "judge",
    "matrix",
    "off_diagonal",
    "predicting",
    "row_id",
    "rows_key",
    "score",
    "varies",
]
