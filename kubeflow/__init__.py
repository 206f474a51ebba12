"""The pipeline on open-source Kubeflow Pipelines v2. (PyPI's package `kubeflow` is another one; this project does not use it.)"""
