"""Predictions -> errors, baselines on the same rows, and how far to trust their differences."""

from persona_lab.evaluation.assessment import assess, intervals
from persona_lab.evaluation.audit import Audit, auditing
from persona_lab.evaluation.beyond import beyond
from persona_lab.evaluation.claims import CLAIMS, OURS, Judged, TableRow, judge
from persona_lab.evaluation.contrast import Contrast, Verdict, adjust, contrast, rows_key, varies
from persona_lab.evaluation.matrix import matrix, off_diagonal
from persona_lab.evaluation.metrics import score
from persona_lab.evaluation.predictors import Baselines, baselines, predicting
from persona_lab.evaluation.result import Result, Row, adapter_records, row_id
from persona_lab.evaluation.uncertainty import (
    Difference,
    Interval,
    SeedVariance,
    holm,
    interval,
    paired_interval,
    share_interval,
)

__all__ = [
    "CLAIMS",
    "OURS",
    "Audit",
    "Baselines",
    "Contrast",
    "Difference",
    "Interval",
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
    "holm",
    "interval",
    "intervals",
    "judge",
    "matrix",
    "off_diagonal",
    "paired_interval",
    "predicting",
    "row_id",
    "rows_key",
    "score",
    "share_interval",
    "varies",
]
