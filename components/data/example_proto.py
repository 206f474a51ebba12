"""tf.Example without TensorFlow.

Importing TensorFlow takes about seven seconds in every process; importing these messages takes almost no time. The serialised form is
equal to that of tf.train.Example, so each class can read the output of the other. The fields are those of
https://github.com/tensorflow/tensorflow/tree/master/tensorflow/core/example. The protobuf package has a different name, because one
process cannot have two definitions with the same name.
"""

from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_PROTO: Final = """
name: "captcha_pipeline/example.proto" package: "captcha_pipeline" syntax: "proto3"
message_type { name: "BytesList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
message_type { name: "FloatList" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
message_type { name: "Int64List" field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
message_type { name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".captcha_pipeline.BytesList" oneof_index: 0 }
  field { name: "float_list" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".captcha_pipeline.FloatList" oneof_index: 0 }
  field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".captcha_pipeline.Int64List" oneof_index: 0 } }
message_type { name: "Features"
  field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".captcha_pipeline.Features.FeatureEntry" }
  nested_type { name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".captcha_pipeline.Feature" } } }
message_type { name: "Example"
  field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE type_name: ".captcha_pipeline.Features" } }
"""


def _example_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_PROTO, descriptor_pb2.FileDescriptorProto()))
    # protobuf 3.20, used by older TFX releases, has only the second function; protobuf 6 has only the first.
    new_class = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory(pool).GetPrototype
    return new_class(pool.FindMessageTypeByName("captcha_pipeline.Example"))


Example: Any = _example_class()


def bytes_example(features: Mapping[str, bytes], kind: Any = Example) -> Any:
    """Returns an example of the class `kind` in which every feature has one byte string."""
    example = kind()
    for name, value in features.items():
        example.features.feature[name].bytes_list.value.append(value)
    return example
