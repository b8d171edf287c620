"""Typed settings to jobs: what a run is called, what its numbers depend on, and which parts it is built of."""

from poolwise.jobs.checks import check_inputs
from poolwise.jobs.folds import FoldsJob
from poolwise.jobs.mlm import MLMJob
from poolwise.jobs.probe import ProbeJob
from poolwise.jobs.sentiment import SentimentJob

__all__ = ["FoldsJob", "MLMJob", "ProbeJob", "SentimentJob", "check_inputs"]
