"""Reads pictures with an exported ONNX model. Needs NumPy, Pillow and ONNX Runtime.

`captcha_read.model.Model` reads pictures, and the command `captcha-read` reads files. This package imports nothing by itself, so that the
command can check its arguments before it loads a library.
"""
