"""Predictions -> errors, baselines on the same rows, and how far to trust their differences."""

from persona_lab.evaluation.assessment import Assessment, assess
from persona_lab.evaluation.metrics import score
from persona_lab.evaluation.predictors import Baselines, baselines
from persona_lab.evaluation.result import Result, Row, row_id
from persona_lab.evaluation.uncertainty import Interval, interval, paired_interval

__all__ = [
    "Assessment",
    "Baselines",
    "Interval",
    "Result",
    "Row",
    "assess",
    "baselines",
    "interval",
    "paired_interval",
    "row_id",
    "score",
]
