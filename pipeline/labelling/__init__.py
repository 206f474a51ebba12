"""The page of `captcha-pipeline label`, on which a person labels the pictures of a folder while models are trained in the background."""
