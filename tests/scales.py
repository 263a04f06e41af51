"""Scales of ratings for tests: MovieLens' stars, and half stars as other data sets have them."""

from persona_lab.data import Scale

STARS = Scale((1, 2, 3, 4, 5), ("hated it", "disliked it", "saw it", "liked it", "loved it"))
HALVES = Scale([n / 2 for n in range(1, 11)], [f"give it {n} of 10" for n in range(1, 11)])
