"""Compiles, rehearses, submits and schedules the pipeline for Kubeflow Pipelines."""
