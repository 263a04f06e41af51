"""Vectors of profiles in, personas out: k-means, the elbow, or what is known of the users."""

from persona_lab.personas.personas import (
    Clustering,
    Demographics,
    ElbowPersonas,
    KMeansPersonas,
    MiniBatchPersonas,
    Personas,
    grouping,
    known_users,
)

__all__ = [
    "Clustering",
    "Demographics",
    "ElbowPersonas",
    "KMeansPersonas",
    "MiniBatchPersonas",
    "Personas",
    "grouping",
    "known_users",
]
