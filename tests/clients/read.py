"""Reads a picture from a server with a client that others wrote. Prints what it got as JSON.

python tests/clients/read.py CLIENT URL MODEL PICTURE
"""

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any


async def kserve_v1(url: str, model: str, picture: bytes) -> dict[str, Any]:
    from kserve import InferenceRESTClient, RESTConfig

    client = InferenceRESTClient(RESTConfig(protocol="v1"))
    answer = await client.infer(url, {"instances": [{"b64": base64.b64encode(picture).decode()}]}, model)
    # Its `is_model_ready` asks for a field that TensorFlow Serving's status does not have.
    row: dict[str, Any] = answer["predictions"][0]
    return row


async def kserve_v2(url: str, model: str, picture: bytes) -> dict[str, Any]:
    return await _kserve_v2(url, model, picture, binary=True)


async def kserve_v2_json(url: str, model: str, picture: bytes) -> dict[str, Any]:
    return await _kserve_v2(url, model, picture, binary=False)


async def _kserve_v2(url: str, model: str, picture: bytes, binary: bool) -> dict[str, Any]:
    import numpy as np
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    if binary:
        given = InferInput("image", [1], "BYTES")
        given.set_data_from_numpy(np.array([picture], object), binary_data=True)
    else:
        text = base64.b64encode(picture).decode()
        given = InferInput("image", [1], "BYTES", data=[text], parameters={"content_type": "base64"})
    answer = await client.infer(url, InferRequest(model, [given], request_id="1"), model)
    ready = await client.is_server_live(url) and await client.is_server_ready(url) and await client.is_model_ready(url, model)
    outputs = {output.name: output.as_numpy()[0] for output in answer.outputs}
    return {"ready": ready, "id": answer.id, **{name: value.tolist() for name, value in outputs.items() if hasattr(value, "tolist")}} | {
        "text": _decoded(outputs["text"])
    }


async def triton(url: str, model: str, picture: bytes) -> dict[str, Any]:
    return _triton(url, model, picture, binary=True)


async def triton_json(url: str, model: str, picture: bytes) -> dict[str, Any]:
    return _triton(url, model, base64.b64encode(picture), binary=False)


def _triton(url: str, model: str, picture: bytes, binary: bool) -> dict[str, Any]:
    import numpy as np
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    client = InferenceServerClient(url.removeprefix("http://"))
    given = InferInput("image", [1], "BYTES")
    given.set_data_from_numpy(np.array([picture], object), binary_data=binary)
    if not binary:
        given._parameters["content_type"] = "base64"  # it has no method for this
    described = client.get_model_metadata(model)
    wanted = [InferRequestedOutput(output["name"], binary_data=binary) for output in described["outputs"]]
    answer = client.infer(model, [given], outputs=wanted, request_id="1")
    every = client.infer(model, [given])  # without a list of outputs, Triton's client wants all, as binary data
    assert every.as_numpy("text")[0] == answer.as_numpy("text")[0].encode() if not binary else answer.as_numpy("text")[0]
    return {
        "ready": client.is_server_live() and client.is_server_ready() and client.is_model_ready(model),
        "server": client.get_server_metadata()["name"],
        "id": answer.get_response()["id"],
        "text": _decoded(answer.as_numpy("text")[0]),
        **{name: answer.as_numpy(name)[0].tolist() for name in ("confidence", "valid", "probabilities")},
    }


async def requests(url: str, model: str, picture: bytes) -> dict[str, Any]:
    import requests

    body = {"instances": [{"image": {"b64": base64.b64encode(picture).decode()}}]}
    answer = requests.post(f"{url}/v1/models/{model}:predict", json=body, timeout=60)
    answer.raise_for_status()
    refused = requests.post(f"{url}/v1/models/{model}:predict", data=b"x" * 20_000_000, timeout=60)
    row: dict[str, Any] = answer.json()["predictions"][0]
    return {"ready": requests.get(f"{url}/readyz", timeout=60).ok, "too_long": refused.status_code, **row}


async def generated(url: str, model: str, picture: bytes) -> dict[str, Any]:
    """Reads with a client that openapi-python-client has generated into a folder of the import path."""
    from captcha_pipeline_client import Client
    from captcha_pipeline_client.api.server import readiness
    from captcha_pipeline_client.api.tensorflow import predict
    from captcha_pipeline_client.models import Base64, PredictName, PredictResponse, RowRequest

    client = Client(url)
    answer = predict.sync(PredictName(model), client=client, body=RowRequest(instances=[Base64(base64.b64encode(picture).decode())]))
    assert isinstance(answer, PredictResponse), answer
    return {"ready": readiness.sync_detailed(client=client).status_code == 200, **answer.predictions[0].to_dict()}


def _decoded(text: Any) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)


if __name__ == "__main__":
    client, url, model, path = sys.argv[1:]
    print(json.dumps(asyncio.run(globals()[client](url, model, Path(path).read_bytes())), default=str))
