"""CaptchaExampleGen: reads a window of spans, checks every record, puts bad ones in quarantine, and counts what the good ones are like.

Unlike TFX's own ExampleGen it has no driver, which open-source Kubeflow Pipelines would not run. TFX cannot see that the
content of a folder has changed: the property `as_of` names that content.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Final

import apache_beam as beam
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.dsl.io import fileio
from tfx.orchestration.data_types import RuntimeParameter
from tfx.proto import example_gen_pb2
from tfx.types import artifact, artifact_utils, channel, component_spec, standard_artifacts

from components import features
from components.beam_output import remove_abandoned
from components.captcha import CaptchaSpec
from components.drift import Profile
from components.errors import CaptchaPipelineError
from components.pictures import PictureRules
from components.record_check import BAD, PROFILE, SUMMARY, CheckShard, Shard, Tally
from components.records import DataInfo
from components.sources.spans import Span, Window, window_as_of

# Custom properties of the examples: JSON, the numbers of the spans that they come from, and the checksums of their manifests.
SPANS: Final = "spans"
CHECKSUMS: Final = "span_checksums"
_RECORDS_PREFIX: Final = "records"
_REASONS_IN_MESSAGE: Final = 3


class Quarantine(artifact.Artifact):
    """The records that are not right: gzipped TFRecords of tf.Example, and `summary.json`.

    An example holds `reason`, `detail`, `source_file` (relative to the data folder), `index` (of the record in that file) and
    `record` (what could be read of it). The summary is
    `{"total": n, "bad": n, "good": {split: n}, "reasons": {reason: {"count": n, "examples": [{"file", "index", "detail"}]}}}`,
    where records that a broken file has lost count as bad, as far as the manifest says how many there were.
    """

    TYPE_NAME = "captcha.Quarantine"


class Executor(base_beam_executor.BaseBeamExecutor):
    """Runs the check as one Beam pipeline, on whatever runner."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes the examples and the quarantine.

        Raises:
          CaptchaPipelineError: there are no spans, one has gone since the run began, a shard is missing, a split has no good record,
            or more than `max_bad_fraction` of the records are bad; their quarantine is then copied to `quarantine_dir`.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        quarantine = artifact_utils.get_single_instance(output_dict["quarantine"])
        profiles = artifact_utils.get_single_uri(output_dict["profiles"])
        chosen = window_as_of(
            exec_properties["as_of"],
            exec_properties["data_root"],
            exec_properties["window"] or None,
            json.loads(exec_properties["exclude"]),
            exec_properties["golden"] or None,
        )
        spans = chosen.spans
        spec = CaptchaSpec.model_validate_json(exec_properties["spec"])
        rules = json.loads(exec_properties["rules"])
        check = CheckShard(spec, PictureRules(**rules | {"background": tuple(rules["background"])}))
        shards = list(shards_of_window(chosen, exec_properties["half_life"]))
        examples.split_names = artifact_utils.encode_split_names(list(features.SPLITS))
        examples.span = spans[-1].number
        examples.set_string_custom_property(SPANS, json.dumps([span.number for span in spans]))
        examples.set_string_custom_property(CHECKSUMS, json.dumps([span.checksum for span in spans]))
        examples.set_string_custom_property(features.WINDOW, chosen.digest)
        examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)

        with _naming_what_has_gone(chosen), self._make_beam_pipeline() as pipeline:
            outputs = (
                pipeline
                | "Shards" >> beam.Create(shards)
                | "Distribute" >> beam.Reshuffle()
                | "Check" >> beam.ParDo(check).with_outputs(*features.SPLITS, BAD, SUMMARY, PROFILE)
            )
            for split in features.SPLITS:
                prefix = os.path.join(artifact_utils.get_split_uri([examples], split), "data_tfrecord")
                # Not gzipped: the pictures are compressed already, and every later step would unpack them again.
                _ = outputs[split] | f"Write[{split}]" >> beam.io.WriteToTFRecord(prefix)
            _ = outputs[BAD] | "WriteBad" >> beam.io.WriteToTFRecord(os.path.join(quarantine.uri, _RECORDS_PREFIX), file_name_suffix=".gz")
            names = [span.path.name for span in spans]
            merged = {
                SUMMARY: (Tally.merge, os.path.join(quarantine.uri, features.SUMMARY_FILE)),
                PROFILE: (partial(_merge_profiles, spans=names), os.path.join(profiles, features.PROFILES_FILE)),
            }
            for tag, (merge, path) in merged.items():
                _ = (
                    outputs[tag]
                    | f"Gather[{tag}]" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
                    | f"Merge[{tag}]" >> beam.Map(merge).with_output_types(bytes)
                    | f"Write[{tag}]" >> beam.io.WriteToText(path, num_shards=1, shard_name_template="", coder=beam.coders.BytesCoder())
                )

        remove_abandoned(output_dict)
        with fileio.open(os.path.join(quarantine.uri, features.SUMMARY_FILE)) as file:
            summary = json.loads(file.read())
        if complaint := _complaint(summary, exec_properties["max_bad_fraction"]):
            # TFX deletes the outputs of a failed step.
            _replace_folder(quarantine.uri, exec_properties["quarantine_dir"])
            where = f"The bad records, each with its reason, are in {exec_properties['quarantine_dir']}."
            raise CaptchaPipelineError(f"{complaint}\n{where} Put them right in a new span, and leave out the old one with data.exclude.")


@contextlib.contextmanager
def _naming_what_has_gone(chosen: Window) -> Iterator[None]:
    """What Beam says of a shard that is removed while it is at work depends on the runner."""
    try:
        yield
    except Exception:
        list(shards_of_window(chosen, 0.0))  # says which is missing, if one is
        raise


def shards_of_window(chosen: Window, half_life: float) -> Iterator[Shard]:
    """Yields the shards that a run reads: those of the window, and the golden span's test split.

    Args:
      half_life: in spans, 0 for none: of a span that is so much older than the newest, half of the training records are used.

    Raises:
      CaptchaPipelineError: as `shards_of`.
    """
    for age, span in zip(reversed(range(len(chosen.spans))), chosen.spans, strict=True):
        share = 0.5 ** (age / half_life) if half_life else 1.0
        for shard in shards_of(span):
            yield replace(shard, share=share) if shard.split == features.SPLITS[0] else shard
    if chosen.golden and chosen.golden not in chosen.spans:
        yield from (shard for shard in shards_of(chosen.golden) if shard.split == features.SPLITS[-1])


def shards_of(span: Span) -> Iterator[Shard]:
    """Yields the shards of a span, as its manifest lists them.

    Raises:
      CaptchaPipelineError: one is missing, or the book's data_info.csv is not right.
    """
    info = DataInfo.load(span.path / features.DATA_INFO) if span.manifest.layout == "book" else None
    for file in span.manifest.files:
        path = span.path / file.path
        if not path.is_file():
            raise CaptchaPipelineError(
                f"The shard {path} is missing; the span's {features.MANIFEST} lists it. Put it back, or remove the span {span.path}."
            )
        yield Shard(file.path.partition("/")[0], str(path), f"{span.path.name}/{file.path}", file.records, span.manifest.source, info)


def _complaint(summary: dict[str, Any], max_bad_fraction: float) -> str:
    """Returns why the run must stop, or ""."""
    total, bad = summary["total"], summary["bad"]
    empty = [split for split in features.SPLITS if not summary["good"].get(split)]
    if bad > max_bad_fraction * total:
        head = f"{bad:,} of {total:,} records ({bad / total:.1%}) are not right; data.max_bad_fraction allows {max_bad_fraction:.1%}."
    elif empty:
        head = f"There is no good record in the split {empty[0]}, of {total:,} records in all; make a span with more pictures."
    else:
        return ""
    lines = [head]
    for reason, entry in list(summary["reasons"].items())[:_REASONS_IN_MESSAGE]:
        example = entry["examples"][0]
        lines.append(f"  {reason} ({entry['count']:,}), such as {example['file']}, record {example['index']}: {example['detail']}")
    return "\n".join(lines)


def _merge_profiles(parts: Sequence[bytes], spans: Sequence[str]) -> bytes:
    merged = {span: Profile() for span in spans}
    for part in parts:
        for span, counts in json.loads(part).items():
            if span in merged:
                merged[span].merge(Profile(counts))
    return json.dumps({span: profile.to_json() for span, profile in merged.items()}, ensure_ascii=False).encode()


def _replace_folder(source: str, target: str) -> None:
    if fileio.isdir(target):
        fileio.rmtree(target)
    fileio.makedirs(target)
    for name in fileio.listdir(source):
        fileio.copy(os.path.join(source, name), os.path.join(target, name))


class CaptchaExampleGenSpec(component_spec.ComponentSpec):
    PARAMETERS = {  # noqa: RUF012
        "data_root": component_spec.ExecutionParameter(type=str),
        "window": component_spec.ExecutionParameter(type=int),
        "exclude": component_spec.ExecutionParameter(type=str),
        "golden": component_spec.ExecutionParameter(type=int),
        "half_life": component_spec.ExecutionParameter(type=float),
        "spec": component_spec.ExecutionParameter(type=str),
        "rules": component_spec.ExecutionParameter(type=str),
        "max_bad_fraction": component_spec.ExecutionParameter(type=float),
        "quarantine_dir": component_spec.ExecutionParameter(type=str),
        "as_of": component_spec.ExecutionParameter(type=str),
        "source_digest": component_spec.ExecutionParameter(type=str),
    }
    INPUTS: Mapping[str, Any] = {}
    OUTPUTS = {  # noqa: RUF012
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "quarantine": component_spec.ChannelParameter(type=Quarantine),
        "profiles": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
    }


class CaptchaExampleGen(base_beam_component.BaseBeamComponent):
    """Reads a window of spans; see the module.

    Its outputs are `examples`, with the splits train, eval and test, `quarantine`, and `profiles`: PROFILES_FILE, `{span: Profile}` of the
    spans in the window.

    Args:
      data_root: the folder of the spans.
      window: how many of the newest spans to read; 0 for all.
      exclude: numbers of spans that are not used.
      golden: the number of a span whose test split is read in any case; 0 for none.
      half_life: see `shards_of_window`.
      spec: what labels and pictures must be.
      rules: what is done with pictures.
      max_bad_fraction: 0 to 1; the run stops when more than this of the records are bad.
      quarantine_dir: a folder that is replaced by the quarantine of a run that stops here.
      as_of: the digest of the window; another value has the step run again.
      source_digest: of this module; likewise.
    """

    SPEC_CLASS = CaptchaExampleGenSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        data_root: str,
        window: int | RuntimeParameter,
        exclude: Sequence[int],
        golden: int,
        half_life: float,
        spec: CaptchaSpec,
        rules: PictureRules,
        max_bad_fraction: float,
        quarantine_dir: str,
        as_of: str,
        source_digest: str,
    ):
        super().__init__(
            CaptchaExampleGenSpec(
                data_root=data_root,
                window=window,
                exclude=json.dumps(sorted(exclude)),
                golden=golden,
                half_life=float(half_life),
                spec=spec.model_dump_json(),
                rules=json.dumps(asdict(rules)),
                max_bad_fraction=float(max_bad_fraction),
                quarantine_dir=quarantine_dir,
                as_of=as_of,
                source_digest=source_digest,
                examples=channel.Channel(type=standard_artifacts.Examples),
                quarantine=channel.Channel(type=Quarantine),
                profiles=channel.Channel(type=standard_artifacts.ExampleStatistics),
            )
        )
