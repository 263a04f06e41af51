"""Ratings in, one cohort's temporal split out.

Readers of the MovieLens formats and of synthetic data, the movie catalogue, the selection of users,
the split in time and the movies' average ratings.
"""

from persona_lab.data.cost import Cost
from persona_lab.data.dataset import Data, Protocol
from persona_lab.data.movie_info import CsvMovieInfo, MovieInfo, NoMovieInfo
from persona_lab.data.movielens import MovieLens1M, MovieLens100K
from persona_lab.data.ratings import Ratings, Reader
from persona_lab.data.scale import Scale
from persona_lab.data.split import Split
from persona_lab.data.synthetic import Synthetic

__all__ = [
    "Cost",
    "CsvMovieInfo",
    "Data",
    "MovieInfo",
    "MovieLens1M",
    "MovieLens100K",
    "NoMovieInfo",
    "Protocol",
    "Ratings",
    "Reader",
    "Scale",
    "Split",
    "Synthetic",
]
