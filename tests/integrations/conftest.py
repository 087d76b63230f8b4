"""Whole runs with a tiny agent and a real function as the target."""

from tests.tuning.conftest import elsewhere as elsewhere
