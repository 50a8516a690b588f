"A file says what the model says: torch, onnxruntime and OpenVINO, at every depth and in every format."

import numpy as np
import pytest
import torch

from yolo_nas_pose.core.skeleton import ANIMALPOSE20, COCO17, Skeleton
from yolo_nas_pose.core.toy import ToyScenes, toy_scene
from yolo_nas_pose.deploy.engine import onnx_text, open_file
from yolo_nas_pose.deploy.export import export_onnx, export_openvino, tensor_table
from yolo_nas_pose.deploy.quantize import fold_shortcuts, quantize_ptq
from yolo_nas_pose.deploy.runtime import OnnxPose, evaluate_file, nms
from yolo_nas_pose.model.network import YoloNASPose
from yolo_nas_pose.model.postprocess import nms as torch_nms
from yolo_nas_pose.model.pretrained import get
from yolo_nas_pose.training.evaluate import evaluate

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
RAW = {"Conv", "ConvTranspose", "Relu", "Add", "Concat", "MaxPool", "Cast", "Mul", "Constant", "Identity"}


def make(variant, skeleton=COCO17, seed=0):
    "An untrained network with different answers everywhere, and shortcuts of other weights than one."
    torch.manual_seed(seed)
    model = YoloNASPose(variant, skeleton).eval()
    for name, value in model.named_parameters():
        if name.endswith("alpha"):
            torch.nn.init.constant_(value, .7)
        elif ".cls_pred.weight" in name:
            torch.nn.init.normal_(value, std=20)
    return model


@pytest.fixture(scope="module")
def toy():
    return get("yolo_nas_pose_n", pretrained_weights="toy")


def same(found, right, pixels=1., score=1e-3):
    "The same people within a pixel and a thousandth, in whatever order nearly equal scores put them."
    assert len(found) == len(right)
    for a, b in zip(found, right):
        assert len(a) == len(b), (a.name, len(a), len(b))
        for person in a:
            gaps = [max(np.abs(person.joints[:, :2] - other.joints[:, :2]).max() / pixels, np.abs(person.box - other.box).max() / pixels,
                        np.abs(person.joints[:, 2] - other.joints[:, 2]).max() / score, abs(person.score - other.score) / score) for other in b]
            assert min(gaps) <= 1, min(gaps)


def twenty():
    "Pictures of all shapes: square, portrait, landscape, tiny, grey, larger than the input."
    sizes = [(160, 160), (320, 96), (96, 320), (24, 24), (16, 40), (480, 360), (200, 230), (97, 131), (300, 301), (64, 64)]
    colour = [toy_scene(seed, (max(size[0], 64), max(size[1], 64)), figures=1 + seed % 3).image[:size[0], :size[1]] for seed, size in enumerate(sizes)]
    grey = [image.mean(2).astype(np.uint8) for image in colour[:4]]
    big = [np.kron(image, np.ones((3, 3, 1), np.uint8)) for image in colour[:6]]
    return [*colour, *grey, *big]


@pytest.mark.parametrize("options", [dict(depth="raw"), dict(depth="decoded"), dict(depth="poses", layout="batch"), dict(depth="poses", layout="flat"),
                                     dict(depth="poses", channel_order="rgb", thresholds="inputs"), dict(depth="raw", input_type="float32", batch=None)],
                         ids=lambda options: "-".join(map(str, options.values())))
def test_twenty_pictures_are_seen_alike(toy, tmp_path, options):
    images, conf = twenty(), .2
    assert len(images) >= 20
    right = toy.predict(images, conf=conf, image_size=192)
    assert sum(map(len, right)) >= 10
    path = export_onnx(toy, tmp_path / "toy.onnx", image_size=192, conf=conf, **options)
    same(OnnxPose(path).predict(images, conf=conf), right)


@pytest.mark.parametrize("depth", ["raw", "decoded", "poses"])
def test_openvino_sees_alike(toy, tmp_path, depth):
    pytest.importorskip("openvino")
    images, conf = twenty(), .2
    right = toy.predict(images, conf=conf, image_size=192)
    path = export_openvino(toy, tmp_path / "toy.xml", depth=depth, image_size=192, conf=conf)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["toy.bin", "toy.xml"]
    pose = OnnxPose(path, precision="f32")
    assert pose.description.conf == (conf if depth == "poses" else None) and pose.skeleton == COCO17
    same(pose.predict(images, conf=conf), right)


def test_openvino_reads_onnx(toy, tmp_path):
    pytest.importorskip("openvino")
    images = [scene.image for scene in ToyScenes(3, 256, seed=7)]
    path = export_onnx(toy, tmp_path / "toy.onnx", image_size=256, conf=.3)
    same(OnnxPose(path, "openvino", precision="f32").predict(images), toy.predict(images, conf=.3, image_size=256))


@pytest.mark.parametrize("variant, skeleton", [("yolo_nas_pose_s", COCO17), ("yolo_nas_pose_n", ANIMALPOSE20)], ids=["s", "n20"])
@pytest.mark.parametrize("depth", ["raw", "decoded", "poses"])
def test_other_networks(tmp_path, variant, skeleton, depth):
    "Each file was compared with torch while it was written; here its answer is compared with `predict`."
    model, images = make(variant, skeleton), [toy_scene(3, 96).image]
    path = export_onnx(model, tmp_path / "a.onnx", depth=depth, image_size=96, conf=0, iou=1, pre_nms=189, post_nms=189)
    pose = OnnxPose(path)
    assert pose.skeleton == skeleton and pose.description.variant == variant
    same(pose.predict(images, conf=0, iou=1, pre_nms=189, post_nms=189),
         model.predict(images, conf=0, iou=1, image_size=96, pre_nms=189, post_nms=189), pixels=.05)
    table = {name: shape for name, _, shape, _ in tensor_table(path)}
    assert str(skeleton.num_joints) in table["joints"] if depth != "raw" else table["offsets_8"] == f"(1, {2 * skeleton.num_joints}, 12, 12)"


@pytest.mark.parametrize("layout", ["batch", "flat"])
def test_people_of_any_batch_and_size(toy, tmp_path, layout):
    "The check of the file asks for one image and for three."
    path = export_onnx(toy, tmp_path / "any.onnx", image_size=128, batch=None, any_size=True, layout=layout, conf=.3)
    images = [scene.image for scene in ToyScenes(3, 192, seed=7)]
    same(OnnxPose(path).predict(images, image_size=192), toy.predict(images, conf=.3, image_size=192))


def test_one_file_for_any_batch_and_size(tmp_path):
    model = make("yolo_nas_pose_n")
    path = export_onnx(model, tmp_path / "any.onnx", depth="raw", image_size=128, batch=None, any_size=True, input_type="float32")
    engine, _ = open_file(path)
    fused = make("yolo_nas_pose_n").fuse()
    for batch, height, width in ((1, 128, 128), (2, 64, 96), (7, 32, 64), (1, 320, 640)):
        images = torch.rand(batch, 3, height, width)
        with torch.no_grad():
            raw = fused(images)
        got = engine.run({"images": images.numpy()})
        flat = np.concatenate([got[f"sides_{stride}"].reshape(batch, 68, -1) for stride in (8, 16, 32)], 2).transpose(0, 2, 1)
        np.testing.assert_allclose(flat, raw.box_bins.numpy(), atol=1e-3)
    pose = OnnxPose(path)
    scene = toy_scene(3, (200, 400)).image
    same(pose.predict([scene], conf=0, iou=.5, image_size=(96, 192), post_nms=20), model.predict([scene], conf=0, iou=.5, image_size=(96, 192), post_nms=20), .05)


def test_thresholds_of_zero_count(toy, tmp_path):
    scene = [toy_scene(3, 128).image]
    path = export_onnx(toy, tmp_path / "zero.onnx", image_size=128, conf=0, iou=0, pre_nms=50, post_nms=50)
    right = toy.predict(scene, conf=0, iou=0, image_size=128, pre_nms=50, post_nms=50)
    assert len(right[0]) >= 1
    same(OnnxPose(path).predict(scene), right)


def test_rows_behind_the_last_person_are_empty(toy, tmp_path):
    path = export_onnx(toy, tmp_path / "a.onnx", image_size=256, batch=2, conf=.3)
    pose = OnnxPose(path)
    images = [scene.image for scene in ToyScenes(2, 256, seed=7)]
    outputs = pose.run(pose.prepare(images, (256, 256))[0])
    assert outputs["boxes"].shape == (2, 100, 4) and 0 < outputs["count"].sum() < 20
    for n, count in enumerate(outputs["count"]):
        assert all(outputs[name][n, :count].any() and not outputs[name][n, count:].any() for name in ("boxes", "scores", "joints"))


def test_raw_files_hold_convolutions_and_little_else(toy, tmp_path):
    path = export_onnx(toy, tmp_path / "raw.onnx", depth="raw", image_size=64, check=False)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert kinds <= RAW, kinds - RAW
    path = export_onnx(toy, tmp_path / "raw.onnx", depth="raw", image_size=64, input_type="float32", check=False)
    assert {node.op_type for node in onnx.load(path).graph.node} <= RAW - {"Cast", "Mul"}


def test_choice_comes_before_the_decoder(toy, tmp_path):
    "Softmax of the side scores is computed for 100 rows, not for all anchors."
    path = export_onnx(toy, tmp_path / "a.onnx", image_size=128, pre_nms=100, check=False)
    proto = onnx.load(path)
    soft = next(node for node in proto.graph.node if node.op_type == "Softmax")
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(soft.input[0]))
    import onnxruntime
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run([soft.input[0]], {"images": np.zeros((1, 3, 128, 128), np.uint8)})[0].shape[1] == 100
    assert "GatherElements" not in {node.op_type for node in proto.graph.node}


@pytest.mark.parametrize("opset", [14, 16, 20])
def test_opsets(toy, tmp_path, opset):
    path = export_onnx(toy, tmp_path / "a.onnx", image_size=128, opset=opset, conf=.2)
    assert {one.domain: one.version for one in onnx.load(path).opset_import}[""] == opset


@pytest.mark.slow
@pytest.mark.parametrize("options", [dict(), dict(layout="flat"), dict(depth="raw"), dict(depth="decoded", batch=None)],
                         ids=lambda options: "-".join(map(str, options.values())) or "poses")
def test_the_newer_exporter(toy, tmp_path, options):
    pytest.importorskip("onnxscript")
    path = export_onnx(toy, tmp_path / "a.onnx", image_size=192, conf=.2, dynamo=True, **options)
    same(OnnxPose(path).predict(twenty(), conf=.2), toy.predict(twenty(), conf=.2, image_size=192))


def test_half_precision(toy, tmp_path):
    images = [scene.image for scene in ToyScenes(3, 256, seed=7)]
    whole, half = (export_onnx(toy, tmp_path / f"{precision}.onnx", image_size=256, conf=.3, precision=precision) for precision in ("fp32", "fp16"))
    assert half.stat().st_size < .6 * whole.stat().st_size
    same(OnnxPose(half).predict(images), toy.predict(images, conf=.3, image_size=256), pixels=2, score=.03)


@pytest.mark.parametrize("engine, kinds", [("cpu", {0, 128}), ("tensorrt", {0})])
def test_a_quantised_model_goes_through_the_same_door(tmp_path, engine, kinds):
    "Whoever asks for an engine gets its scheme, and the model keeps its own."
    model = quantize_ptq(make("yolo_nas_pose_n"), ToyScenes(8, 64, seed=1), 8, 64)
    path = export_onnx(model, tmp_path / "int8.onnx", depth="raw", image_size=64, engine=engine)
    proto = onnx.load(path)
    nodes = [node.op_type for node in proto.graph.node]
    whole = [tensor for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4]
    assert nodes.count("DequantizeLinear") > 200 and OnnxPose(path).description.precision == "int8"
    assert nodes.count("QuantizeLinear") + len(whole) == nodes.count("DequantizeLinear")
    assert len(whole) > 100 if engine == "cpu" else not whole  # weights are stored as integers
    points = [onnx.numpy_helper.to_array(node.attribute[0].t) for node in proto.graph.node if node.op_type == "Constant"]
    points = {int(value) for point in points if point.dtype in (np.uint8, np.int8) for value in np.unique(point)}
    assert points == kinds and model.metadata["quantization"]["scheme"] == "cpu"
    with pytest.raises(ValueError, match="quantised model is exported as it is"):
        export_onnx(model, tmp_path / "b.onnx", precision="fp16")


def test_the_file_says_everything(toy, tmp_path):
    import json
    model = make("yolo_nas_pose_n")
    model.metadata["licence"] = "deci-yolonas-pose"
    model.metadata["image_size"] = 96
    path = export_onnx(model, tmp_path / "a.onnx", conf=.25, pre_nms=100, channel_order="rgb")
    told = {key: json.loads(value) for key, value in onnx_text(path).items()}
    assert told["licence"] == "deci-yolonas-pose" and told["image_size"] == [96, 96] and told["conf"] == .25 and told["iou"] == .7
    assert told["joints"] == list(COCO17.joints) and told["sigmas"] == list(COCO17.sigmas) and told["channel_order"] == "rgb" and told["pad_value"] == 127
    assert [tuple(pair) for pair in told["mirror_pairs"]] == list(COCO17.mirror_pairs) and told["variant"] == "yolo_nas_pose_n" and told["format"] == 1
    proto = onnx.load(path)
    assert {pair.key: pair.value for pair in proto.metadata_props} == onnx_text(path) and "person score" in proto.doc_string
    assert json.loads(onnx_text(export_onnx(toy, path, depth="raw", image_size=64))["licence"]) == toy.metadata.get("licence", "")


def test_accuracy_of_a_file_is_that_of_the_model(toy, tmp_path):
    scenes = ToyScenes(6, 256, seed=7)
    right = evaluate(toy, scenes, 256, batch_size=3, progress=False)
    for options in (dict(depth="raw"), dict(conf=.01, post_nms=30)):
        got = evaluate_file(export_onnx(toy, tmp_path / "a.onnx", image_size=256, **options), scenes)
        assert right["AP"] > .2 and abs(got["AP"] - right["AP"]) < 2e-3 and got["results"]


@pytest.mark.parametrize("seed", range(5))
def test_three_ways_of_nms(seed):
    random = np.random.default_rng(seed)
    boxes = random.uniform(0, 100, (80, 4)).astype(np.float32)
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)
    for iou in (0, .3, .7, 1):
        kept = nms(boxes, iou, 80)
        assert kept.tolist() == torch_nms(torch.from_numpy(boxes), torch.arange(80., 0, -1), iou).tolist()


@pytest.mark.parametrize("variant", ["yolo_nas_pose_n", "yolo_nas_pose_s", "yolo_nas_pose_m", "yolo_nas_pose_l"])
def test_folded_shortcuts_change_nothing(variant):
    model = make(variant)
    alphas = [value for name, value in model.named_parameters() if name.endswith("alpha")]
    torch.nn.init.constant_(alphas[1], -.4)  # cannot be folded, and must stay
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        before = model.fuse().decode(model(images))
        after = fold_shortcuts(model).decode(model(images))
    torch.testing.assert_close(after.joints, before.joints, atol=2e-3, rtol=0)
    torch.testing.assert_close(after.scores, before.scores, atol=1e-4, rtol=0)
    assert sum(name.endswith("alpha") for name, _ in model.named_parameters()) == 1


def test_a_file_keeps_what_was_said_of_mirrors(tmp_path):
    cup = Skeleton.from_names(["rim", "bottom", "handle"], name="cup", mirrorable=True)
    path = export_onnx(YoloNASPose("yolo_nas_pose_n", skeleton=cup), tmp_path / "cup.onnx", "raw", 64)
    assert open_file(path)[1].skeleton == cup
