"""CaptchaExampleGen: reads a window of spans, checks every record, puts bad ones in quarantine, and counts what the good ones are like.

The test split, that of the golden span included, is read first, then eval, then train: a picture that is in the test split is left out of
eval and train, and one that is in eval is left out of train, because eval decides which epoch of a fit is exported. Spans that were split
by other shares or by an earlier rule, or imported twice, would else have a model judged by what it was trained on.

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

from components.base import features
from components.base.errors import CaptchaPipelineError
from components.data.beam_output import remove_abandoned
from components.data.captcha_spec import CaptchaSpec
from components.data.drift import Profile
from components.data.legacy_layout import DataInfo
from components.data.pictures import PictureRules
from components.data.record_check import BAD, KEYS, PROFILE, SUMMARY, CheckShard, Shard
from components.data.spans import Span, Window, window_as_of
from components.data.splits import merge_keys
from components.data.tally import stop_reason, summarise

# Custom properties of the examples: JSON, the numbers of the spans that they come from, and the checksums of their manifests.
SPANS: Final = "spans"
CHECKSUMS: Final = "span_checksums"
_RECORDS_PREFIX: Final = "records"
_ORDER: Final = ("test", "eval", "train")


class Quarantine(artifact.Artifact):
    """The records that are not right: gzipped TFRecords of tf.Example, and `summary.json`.

    An example holds `reason`, `detail`, `source_file` (relative to the data folder), `index` (of the record in that file) and
    `record` (what could be read of it). The summary is
    `{"total": n, "bad": n, "good": {split: n}, "reasons": {reason: {"count": n, "examples": [{"file", "index", "detail"}]}},
    "overlap": {reason: …}, "spans": {span: {"total", "bad", "good", "reasons", "overlap"}}, "changed": [sentence]}`.
    `reasons` are those of bad records; records that a broken file has lost count as bad, as far as the manifest says how many there were.
    `overlap` are good records that are left out of train and eval, because the test or eval split has the same picture: `also_in_test` and
    `also_in_eval`. `changed` names the shards that are not as their manifest says.
    """

    TYPE_NAME = "captcha.Quarantine"


class Executor(base_beam_executor.BaseBeamExecutor):
    """Runs the check as one Beam pipeline, on whatever runner."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes the examples and the quarantine.

        Raises:
          CaptchaPipelineError: there are no spans, one has gone or changed since the run began, a shard is missing or not as its manifest
            says, more than `max_bad_fraction` of the records of a span are bad, or there is no good record in a split, in the newest
            span, or in the test split of the golden one. If there are bad records, their quarantine is then copied to
            `quarantine_dir`.
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
            outputs = list(_checked(pipeline, shards, check))
            for split, output in zip(_ORDER, outputs, strict=True):
                prefix = os.path.join(artifact_utils.get_split_uri([examples], split), "data_tfrecord")
                # Not gzipped: the pictures are compressed already, and every later step would unpack them again.
                _ = output[split] | f"Write[{split}]" >> beam.io.WriteToTFRecord(prefix)

            def all_of(tag: str) -> Any:
                return tuple(output[tag] for output in outputs) | f"All[{tag}]" >> beam.Flatten()

            _ = all_of(BAD) | "WriteBad" >> beam.io.WriteToTFRecord(os.path.join(quarantine.uri, _RECORDS_PREFIX), file_name_suffix=".gz")
            names = [span.path.name for span in spans]
            merged = {
                SUMMARY: (summarise, os.path.join(quarantine.uri, features.SUMMARY_FILE)),
                PROFILE: (partial(_merge_profiles, spans=names), os.path.join(profiles, features.PROFILES_FILE)),
            }
            for tag, (merge, path) in merged.items():
                _ = (
                    all_of(tag)
                    | f"Gather[{tag}]" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
                    | f"Merge[{tag}]" >> beam.Map(merge).with_output_types(bytes)
                    | f"Write[{tag}]" >> beam.io.WriteToText(path, num_shards=1, shard_name_template="", coder=beam.coders.BytesCoder())
                )

        remove_abandoned(output_dict)
        with fileio.open(os.path.join(quarantine.uri, features.SUMMARY_FILE)) as file:
            summary = json.loads(file.read())
        golden = chosen.golden.path.name if chosen.golden else None
        if message := stop_reason(summary, spans[-1].path.name, golden, exec_properties["max_bad_fraction"]):
            if summary["bad"] and not summary["changed"]:
                # TFX deletes the outputs of a failed step.
                _replace_folder(quarantine.uri, exec_properties["quarantine_dir"])
                where = f"The bad records, each with its reason, are in {exec_properties['quarantine_dir']}."
                message += f"\n{where} Put them right in a new span, and leave out the old one with data.exclude."
            raise CaptchaPipelineError(message)


def _checked(pipeline: beam.Pipeline, shards: Sequence[Shard], check: CheckShard) -> Iterator[Any]:
    """Yields what comes out of the check of each split in _ORDER: each waits for the keys of those before, and no picture is read twice."""
    merged: list[Any] = []
    for split in _ORDER:
        output = (
            pipeline
            | f"Shards[{split}]" >> beam.Create([shard for shard in shards if shard.split == split])
            | f"Distribute[{split}]" >> beam.Reshuffle()
            | f"Check[{split}]"
            >> beam.ParDo(check, *map(beam.pvalue.AsSingleton, merged)).with_outputs(*features.SPLITS, BAD, SUMMARY, PROFILE, KEYS)
        )
        merged.append(
            output[KEYS]
            | f"GatherKeys[{split}]" >> beam.CombineGlobally(beam.combiners.ToListCombineFn())
            | f"MergeKeys[{split}]" >> beam.Map(merge_keys).with_output_types(bytes)
        )
        yield output


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
      CaptchaPipelineError: one is missing, or data_info.csv is not right.
    """
    info = DataInfo.load(span.path / features.DATA_INFO) if span.manifest.layout == "book" else None
    for file in span.manifest.files:
        yield Shard(
            split=file.path.partition("/")[0],
            path=str(span.located(file)),
            name=f"{span.path.name}/{file.path}",
            records=file.records,
            sha256=file.sha256,
            source=span.manifest.source,
            info=info,
        )


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
      max_bad_fraction: 0 to 1; the run stops when more than this of the records of a span, or of the golden set, are bad.
      quarantine_dir: a folder that is replaced by the quarantine of a run that stops here.
      as_of: `Window.as_of`; another value has the step run again.
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
