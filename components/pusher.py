"""The Pusher whose versions only grow, and of which no reader sees half a one."""

from typing import Any, Final

from absl import logging
from tfx import types
from tfx.components.pusher import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.proto import pusher_pb2
from tfx.types import artifact_utils
from tfx.types import standard_component_specs as specs
from tfx.utils import io_utils, json_utils, proto_utils

from components.serving_dir import Withdrawn, push

KEEP: Final = "keep"


class AtomicPusherExecutor(executor.Executor):
    """TFX's executor with another way to copy; it marks its artifact as TFX does."""

    def Do(
        self, input_dict: dict[str, list[types.Artifact]], output_dict: dict[str, list[types.Artifact]], exec_properties: dict[str, Any]
    ) -> None:
        """Pushes the model if it is blessed, and no rollback has withdrawn it.

        Raises:
          CaptchaPipelineError: the serving folder cannot be written.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        artifact = artifact_utils.get_single_instance(output_dict[specs.PUSHED_MODEL_KEY])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(artifact)
            return
        destination = pusher_pb2.PushDestination()
        proto_utils.json_to_proto(exec_properties[specs.PUSH_DESTINATION_KEY], destination)
        model_dir = self.GetModelPath(input_dict)
        keep = json_utils.loads(exec_properties[specs.CUSTOM_CONFIG_KEY])[KEEP]
        try:
            pushed = push(model_dir, destination.filesystem.base_directory, keep)
        except Withdrawn as reason:
            logging.warning("%s", reason)
            self._MarkNotPushed(artifact)
            return
        io_utils.copy_dir(model_dir, artifact.uri)
        self._MarkPushed(artifact, pushed_destination=str(pushed.path), pushed_version=str(pushed.version))
        logging.info("Version %d is in %s", pushed.version, pushed.path.parent)


class AtomicPusher(component.Pusher):
    """Pushes `model` to the folder `serving_dir` if `model_blessing` blesses it; `keep` versions stay there."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(AtomicPusherExecutor)

    def __init__(self, model: types.BaseChannel, model_blessing: types.BaseChannel, serving_dir: str, keep: int):
        super().__init__(
            model=model,
            model_blessing=model_blessing,
            custom_config={KEEP: keep},
            push_destination=pusher_pb2.PushDestination(filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=serving_dir)),
        )
