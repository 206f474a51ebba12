"""A small span, and work on spans for processes of their own."""

import contextlib
from typing import Any

from components.base.features import CORRECTIONS
from components.data.captcha_spec import CaptchaSpec
from components.data.span_writer import ShardWriter, new_span, rename_shards, write_manifest


def make_span(root, records=(b"one", b"two"), supersedes=(), source="s"):
    making = new_span(root)
    with making as draft:
        with ShardWriter(draft, "shard-00000", "canonical") as writer:
            for record in records:
                writer.write("train", record)
        files = rename_shards(draft, writer.files, 1)
        about: dict[str, Any] = {"layout": "canonical", "spec": CaptchaSpec(), "seed": None, "params": {}}
        about["source"] = CORRECTIONS if supersedes else source
        write_manifest(draft, **about, files=files, supersedes=supersedes)
    return making.span


def make_three(root):
    for _ in range(3):
        make_span(root)


def begin_many(root):
    for _ in range(100):
        with contextlib.suppress(KeyboardInterrupt), new_span(root) as draft:
            (draft / "record").touch()
            raise KeyboardInterrupt
