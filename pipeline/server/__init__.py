"""The HTTP server of `captcha-pipeline serve`."""
