"""Kubeflow Pipelines: compile, rehearse, submit, schedule."""
