"""What each step of the captcha pipeline does, one module a step."""
