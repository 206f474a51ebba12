"""Joins the steps in `components` into a pipeline, and configures, runs and reports on it."""
