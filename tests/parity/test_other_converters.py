"""LiteRT and Core ML, where their converters are installed: the same people, integers where integers were asked for.

Neither converter is a dependency: `pip install litert-torch` and `pip install coremltools`. A conversion takes a minute on two cores."""

from collections import Counter
from importlib import import_module

import numpy as np
import pytest
import torch

from yolo_nas_pose.core.toy import ToyScenes
from yolo_nas_pose.deploy.engine import Description, from_text, to_text
from yolo_nas_pose.deploy.export import graph_of, ready_copy
from yolo_nas_pose.deploy.graph import RAW_NAMES
from yolo_nas_pose.deploy.quantize import quantize_ptq
from yolo_nas_pose.deploy.rounding import Pair, Quantizer, as_pairs
from yolo_nas_pose.deploy.runtime import people_in
from yolo_nas_pose.model.pretrained import get

SIZE = 256
DECODED = ("boxes", "scores", "joints", "joint_scores")


def converter(name, package):
    "A converter, or a skip that says what is missing."
    return pytest.importorskip(name, reason=f"{package} is not installed: pip install {package}")


@pytest.fixture(scope="module")
def toy():
    return get("yolo_nas_pose_n", pretrained_weights="toy")


@pytest.fixture(scope="module")
def quantised(toy):
    return quantize_ptq(toy, ToyScenes(16, SIZE, seed=1), 16, SIZE)


@pytest.fixture(scope="module")
def scenes():
    return [scene.image for scene in ToyScenes(6, SIZE, seed=7)]


def told(model, depth="decoded", **options):
    return Description(model.skeleton, depth, (SIZE, SIZE), **options)


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["cpu", "avx2", "tensorrt"])
@pytest.mark.parametrize("weights", [True, False])
def test_pairs_round_as_the_model_does(quantised, scenes, scheme, weights):
    "To the last bit, in every scheme, with weights as pairs or rounded for good."
    image = torch.from_numpy(scenes[0].transpose(2, 0, 1)[None])
    right = graph_of(ready_copy(quantised, engine=scheme)[0], told(quantised, "raw"), .5, .7)(image)
    made = as_pairs(ready_copy(quantised, engine=scheme)[0], weights)
    assert all(torch.equal(a, b) for a, b in zip(graph_of(made, told(quantised, "raw"), .5, .7)(image), right))
    kinds = Counter(type(part) for part in made.modules())
    assert not kinds[Quantizer] and kinds[Pair] == (237 if weights else 135)


def lite(graph, path, **options):
    "A graph in LiteRT, from an image (H, W, 3) to its outputs, and what it is made of."
    litert = converter("litert_torch", "litert-torch")
    example = torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)
    litert.convert(litert.to_channel_last_io(graph, args=[0]), (example,), **options).export(str(path))
    interpreter = import_module("ai_edge_litert.interpreter").Interpreter(str(path))
    run = interpreter.get_signature_runner()

    def call(image):
        outputs = run(args_0=image[None])
        return dict(zip(DECODED, (outputs[f"output_{n}"] for n in range(len(outputs)))))
    return call, Counter(op["op_name"] for op in interpreter._get_ops_details())


def gaps(call, scenes, right, model):
    "Distances of joints, px, of the same people."
    found = [people_in(call(scene), 0, told(model), .4, .7, 300, 100) for scene in scenes]
    assert [len(each.scores) for each in found] == [len(each) for each in right]
    moves = []
    for mine, its in zip(found, right):
        far = np.linalg.norm(mine.poses[None, ..., :2] - its.prediction.poses[:, None, :, :2], axis=-1)
        moves.extend(far[np.arange(len(far)), far.mean(-1).argmin(1)].ravel())
    assert len(moves) >= 6 * 17
    return np.array(moves)


@pytest.mark.slow
def test_litert_sees_alike(toy, scenes, tmp_path):
    converter("litert_torch", "litert-torch")
    call, kinds = lite(graph_of(ready_copy(toy)[0], told(toy), .5, .7), tmp_path / "a.tflite")
    assert gaps(call, scenes, toy.predict(scenes, conf=.4, image_size=SIZE), toy).max() < .01
    assert kinds["CONV_2D"] == 109 and not any("custom" in kind.lower() or "flex" in kind.lower() for kind in kinds)


@pytest.mark.slow
def test_litert_computes_in_our_integers(toy, quantised, scenes, tmp_path):
    converter("litert_torch", "litert-torch")
    eager, config = import_module("litert_torch.quantize.pt2e_quantizer"), import_module("litert_torch.quantize.quant_config")
    wish = config.QuantConfig(pt2e_quantizer=eager.PT2EQuantizer().set_global(eager.get_symmetric_quantization_config(is_per_channel=True)))
    path = tmp_path / "int8.tflite"
    call, kinds = lite(graph_of(as_pairs(ready_copy(quantised)[0]), told(toy), .5, .7), path, quant_config=wish)
    assert kinds["QUANTIZE"] + kinds["DEQUANTIZE"] < 30 and path.stat().st_size < 9e6  # 237 pairs have become integers
    moves = gaps(call, scenes, toy.predict(scenes, conf=.4, image_size=SIZE), toy)
    assert np.median(moves) < 1 and np.quantile(moves, .95) < 3


def core_ml(made, depth, target, **options):
    "A model in Core ML, and the kinds of its operations."
    ct = converter("coremltools", "coremltools")
    example = torch.zeros(1, 3, SIZE, SIZE)
    picture = ct.ImageType(name="images", shape=example.shape, scale=1 / 255, color_layout=ct.colorlayout.BGR)
    program = torch.export.export(graph_of(made, told(made, depth, input_type="float32"), .5, .7), (example,)).run_decompositions({})
    names = DECODED if depth == "decoded" else RAW_NAMES
    out = ct.convert(program, inputs=[picture], outputs=[ct.TensorType(name=name) for name in names], minimum_deployment_target=getattr(ct.target, target), **options)
    functions = out.get_spec().mlProgram.functions.values()
    return out, Counter(op.type for function in functions for block in function.block_specializations.values() for op in block.operations)


@pytest.mark.slow
def test_core_ml_takes_pictures_and_says_what_it_is(toy, tmp_path):
    ct = converter("coremltools", "coremltools")
    out, kinds = core_ml(ready_copy(toy)[0], "decoded", "iOS16", compute_precision=ct.precision.FLOAT32)
    assert kinds["conv"] == 109 and kinds["softmax"] == 1
    about = out.get_spec().description
    picture = about.input[0].type.imageType
    assert (picture.width, picture.height, ct.proto.FeatureTypes_pb2.ImageFeatureType.ColorSpace.Name(picture.colorSpace)) == (SIZE, SIZE, "BGR")
    assert tuple(one.name for one in about.output) == DECODED
    out.user_defined_metadata.update(to_text(told(toy)))
    out.save(str(tmp_path / "a.mlpackage"))
    again = ct.models.MLModel(str(tmp_path / "a.mlpackage"), skip_model_load=True)
    assert from_text(dict(again.user_defined_metadata), "a.mlpackage") == told(toy)


@pytest.mark.slow
def test_core_ml_gets_our_pairs(quantised):
    converter("coremltools", "coremltools")
    _, kinds = core_ml(as_pairs(ready_copy(quantised)[0], weights=False), "raw", "iOS17")
    assert kinds["quantize"] == 135 and kinds["dequantize"] >= 135 and kinds["conv"] == 109
