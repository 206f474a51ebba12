"""Runs the graph: on this machine, on other engines of Beam, or on Kubeflow Pipelines."""
