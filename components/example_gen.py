"""CaptchaExampleGen: reads a window of spans, checks every record, quarantines bad records, and counts properties of good records.

The test split is read first, including that of the golden span, then eval, then train. A picture of the test split is left out of eval and
train. A picture of the eval split is left out of train, because eval decides which epoch is exported. Otherwise a model could be judged on
pictures that it was trained on, because spans may be split by other shares or by an earlier rule, or may be imported twice.

If the window has pictures that people have labelled, drawn pictures only train models.

A span of corrections supersedes records of older spans, also of the golden span: these records are left out.

Unlike TFX's own ExampleGen it has no driver, because open-source Kubeflow Pipelines would not run the driver. TFX cannot see that the
content of a folder has changed: the property `as_of` identifies that content.
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
from components.data.spans import Span
from components.data.splits import merge_keys
from components.data.tally import stop_reason, summarise
from components.data.window import Window, check_background, window_as_of

# Custom properties of the examples, as JSON: the numbers of their spans, and the checksums of the manifests of these spans.
SPANS: Final = "spans"
CHECKSUMS: Final = "span_checksums"
_RECORDS_PREFIX: Final = "records"
_ORDER: Final = ("test", "eval", "train")


class Quarantine(artifact.Artifact):
    """The bad records: gzipped TFRecords of tf.Example, and `summary.json`.

    An example has the features `reason`, `detail`, `source_file` (relative to the data folder), `index` (of the record in that file) and
    `record` (the bytes that could be read). The summary is
    `{"total": n, "bad": n, "good": {split: n}, "reasons": {reason: {"count": n, "examples": [{"file", "index", "detail"}]}},
    "overlap": {reason: …}, "spans": {span: {"total", "bad", "good", "reasons", "overlap"}}, "changed": [sentence]}`.
    `reasons` counts bad records. Records lost in a broken file count as bad; their number follows from the manifest.
    `overlap` counts records that are left out because of another record of their picture: `also_in_test` and `also_in_eval`, good records
    of train and eval whose picture is in the test or eval split; `superseded`, records of pictures that a later span corrects or removes.
    `changed` names the shards that differ from their manifest.
    """

    TYPE_NAME = "captcha.Quarantine"


class Executor(base_beam_executor.BaseBeamExecutor):
    """Runs the check as one Beam pipeline, on any runner."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes the examples and the quarantine.

        Raises:
          CaptchaPipelineError: there are no spans; a span was removed or changed after the run began; corrections were made with another
            background; a shard is missing or differs from its manifest; more than `max_bad_fraction` of the records of a span are bad; or
            there is no good record in a split, in the newest span, or in the test split of the golden span. In the last two cases the
            quarantine is copied to `quarantine_dir` first, if it has bad records.
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
        check_background((*spans, *chosen.corrections), rules["background"])
        check = CheckShard(spec, PictureRules(**rules | {"background": tuple(rules["background"])}))
        shards = list(shards_of_window(chosen, exec_properties["half_life"]))
        examples.split_names = artifact_utils.encode_split_names(list(features.SPLITS))
        examples.span = chosen.newest.number
        examples.set_string_custom_property(SPANS, json.dumps([span.number for span in spans]))
        examples.set_string_custom_property(CHECKSUMS, json.dumps([span.checksum for span in spans]))
        examples.set_string_custom_property(features.WINDOW, chosen.digest)
        examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)

        with _naming_what_has_gone(chosen), self._make_beam_pipeline() as pipeline:
            outputs = list(_checked(pipeline, shards, check))
            for split, output in zip(_ORDER, outputs, strict=True):
                prefix = os.path.join(artifact_utils.get_split_uri([examples], split), "data_tfrecord")
                # Not gzipped: the pictures are already compressed, and every later step would have to decompress the files.
                _ = output[split] | f"Write[{split}]" >> beam.io.WriteToTFRecord(prefix)

            def all_of(tag: str) -> Any:
                return tuple(output[tag] for output in outputs) | f"All[{tag}]" >> beam.Flatten()

            _ = all_of(BAD) | "WriteBad" >> beam.io.WriteToTFRecord(os.path.join(quarantine.uri, _RECORDS_PREFIX), file_name_suffix=".gz")
            # The newest last, which the drift gate compares with the others.
            profiled = [span for span in spans if not chosen.only_trains(span)]
            names = [span.path.name for span in sorted(profiled, key=lambda span: span == chosen.newest)]
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
        if message := stop_reason(summary, chosen.newest.path.name, golden, exec_properties["max_bad_fraction"]):
            if summary["bad"] and not summary["changed"]:
                # TFX deletes the outputs of a failed step.
                _replace_folder(quarantine.uri, exec_properties["quarantine_dir"])
                where = f"The bad records, each with its reason, are in {exec_properties['quarantine_dir']}."
                message += f"\n{where} Fix them in a new span, and exclude the old span with data.exclude."
            raise CaptchaPipelineError(message)


def _checked(pipeline: beam.Pipeline, shards: Sequence[Shard], check: CheckShard) -> Iterator[Any]:
    """Yields the outputs of the check of each split in _ORDER. A split waits for the picture keys of the splits before it.

    No picture is read twice.
    """
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
    """Names a shard that is removed during the run. Beam's own message about it depends on the runner."""
    try:
        yield
    except Exception:
        list(shards_of_window(chosen, 0.0))  # raises an error that names the missing shard, if there is one
        raise


def shards_of_window(chosen: Window, half_life: float) -> Iterator[Shard]:
    """Yields the shards that a run reads: the shards of the window, and those of the golden span's test split.

    Args:
      chosen: the window of spans.
      half_life: a number of spans. Of a span with this age (see `Window.age`), half of the training records are used. 0 uses all records of
        every span.

    Raises:
      CaptchaPipelineError: as for `shards_of`.
    """
    for span in chosen.spans:
        share = 0.5 ** (chosen.age(span) / half_life) if half_life else 1.0
        for shard in shards_of(span, chosen):
            yield replace(shard, share=share) if shard.split == features.SPLITS[0] else shard
    if chosen.golden and chosen.golden not in chosen.spans:
        yield from (shard for shard in shards_of(chosen.golden, chosen) if shard.split == features.SPLITS[-1])


def shards_of(span: Span, chosen: Window) -> Iterator[Shard]:
    """Yields the shards of a span in the order of its manifest. If the span only trains models, all are in the train split.

    Args:
      span: the span.
      chosen: the window that the span is read in, which says what later spans supersede.

    Raises:
      CaptchaPipelineError: a shard is missing, or data_info.csv is invalid.
    """
    superseded = chosen.superseded(span)
    info = DataInfo.load(span.path / features.DATA_INFO) if span.manifest.layout == "book" else None
    for file in span.manifest.files:
        yield Shard(
            split=chosen.use_of(span, file.path.partition("/")[0]),
            path=str(span.located(file)),
            name=f"{span.path.name}/{file.path}",
            records=file.records,
            sha256=file.sha256,
            source=span.manifest.source,
            info=info,
            superseded=superseded,
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
    """Reads a window of spans; see the module docstring.

    The outputs are `examples` with the splits train, eval and test, `quarantine`, and `profiles`: PROFILES_FILE, `{span: Profile}` of the
    spans in the window, without drawn ones that only train models.

    Args:
      data_root: the folder of the spans.
      window: the number of newest spans to read; 0 reads all spans.
      exclude: numbers of spans that are not used.
      golden: the number of a span whose test split is always read; 0 for no golden span.
      half_life: a number of spans, see `shards_of_window`.
      spec: the allowed labels, and the size of the pictures.
      rules: how pictures are checked and converted.
      max_bad_fraction: 0 to 1. The run stops if a larger fraction of the records of a span, or of the golden set, is bad.
      quarantine_dir: if the run stops here, its quarantine replaces this folder.
      as_of: `Window.as_of`; another value makes the step run again.
      source_digest: the hash of this step's code; another value makes the step run again.
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
