"""The steps of the captcha pipeline, one module per step."""
