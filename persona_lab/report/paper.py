"""The numbers of the paper's Table 1, by row id, and which models it measured.

Shown beside a row for orientation only: MovieLens-1M, 7,496 test rows that are not known.
"""

from typing import NamedTuple

HEAD = "paper (ML-1M, LLaMA-3/Phi-3)"
MODELS = {"llm": "llama3", "slm": "phi3"}
DISTILLER = ("openai", "GPT-4o")
EMBEDDER = ("ada002", "text-embedding-ada-002")


class Numbers(NamedTuple):
    """RMSE and MAE in stars, URR in percent."""

    rmse: float
    mae: float
    urr_percent: float


TABLE_1 = {
    "r0": Numbers(1.158, 0.847, 0.0),
    "r1": Numbers(1.221, 0.883, 0.0),
    "r2": Numbers(1.229, 0.888, 0.0),
    "r3": Numbers(1.203, 0.863, 4.23),
    "r4": Numbers(1.315, 0.952, 2.93),
    "r5": Numbers(1.312, 0.940, 1.30),
    "r6": Numbers(1.180, 0.848, 1.93),
    "r7": Numbers(1.150, 0.834, 1.15),
    "r8": Numbers(1.337, 1.042, 3.01),
    "r9": Numbers(1.292, 0.937, 2.29),
    "r10": Numbers(1.171, 0.881, 1.77),
}
