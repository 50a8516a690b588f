"Checkpoints of every kind are matched key for key, or refused with the keys named."
import http.server
import threading

import numpy as np
import pytest
import torch

from yolo_nas_pose.model import weights
from yolo_nas_pose.model.network import YoloNASPose
from yolo_nas_pose.model.weights import (CheckpointError, get, load_checkpoint, load_weights, pretrained_path, read_checkpoint,
                                         save_checkpoint)


def model_of(seed=0, joints=17, variant="yolo_nas_pose_n"):
    torch.manual_seed(seed)
    model = YoloNASPose(variant, num_joints=joints).eval()
    for module in model.modules():  # statistics that make fusing a real operation
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-.2, .2)
            module.running_var.uniform_(.5, 1.5)
    return model


def outputs(model):
    torch.manual_seed(1)
    with torch.no_grad():
        return model.decode(model(torch.rand(1, 3, 64, 96)))


def assert_same(a, b, atol=1e-3):
    for x, y in zip(outputs(a), outputs(b)):
        torch.testing.assert_close(x, y, atol=atol, rtol=1e-4)


def reference_state(model):
    "The keys of the reference: ours, and a placeholder in each block."
    state = {}
    for key, value in model.state_dict().items():
        state[key] = value
        if key.endswith("post_bn.num_batches_tracked"):
            block = key.removesuffix(".post_bn.num_batches_tracked")
            kernel = model.state_dict()[f"{block}.branch_3x3.conv.weight"]
            state |= {f"{block}.rbr_reparam.weight": torch.rand_like(kernel), f"{block}.rbr_reparam.bias": torch.rand(len(kernel))}
    return state


def partly_fused_state(model):
    "As the reference exports: branches merged, last batch norm of a block and plain pairs as they were."
    copy = model_of()
    copy.load_state_dict(model.state_dict())
    full = {k: v for k, v in copy.fuse().state_dict().items()} if copy.fuse() is not None else copy.state_dict()
    state = {}
    for key, value in model.state_dict().items():
        if ".branch_" in key:
            continue
        state[key] = value
    for key, value in full.items():
        if ".rbr_reparam." in key:
            block = key.split(".rbr_reparam.")[0]
            norm = {part: model.state_dict()[f"{block}.post_bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")}
            scale = norm["weight"] / (norm["running_var"] + 1e-6).sqrt()
            weight = full[f"{block}.rbr_reparam.weight"]
            bias = full[f"{block}.rbr_reparam.bias"]
            state[f"{block}.rbr_reparam.weight"] = weight / scale.reshape(-1, 1, 1, 1)
            state[f"{block}.rbr_reparam.bias"] = (bias - norm["bias"]) / scale + norm["running_mean"]
    return state


@pytest.mark.parametrize("wrap", [
    lambda s: s, lambda s: {"net": s}, lambda s: {"net": {k: v + 1 for k, v in s.items()}, "ema_net": s, "acc": np.float64(.5)},
    lambda s: {"net": {f"module.{k}": v for k, v in s.items()}, "epoch": 3, "metrics": {"AP": np.float32(.1)}}])
def test_reference_files(tmp_path, wrap):
    source, target = model_of(0), model_of(1)
    torch.save(wrap(reference_state(source)), tmp_path / "ckpt_best.pth")
    report = load_weights(target, tmp_path / "ckpt_best.pth")
    assert len(report.matched) == len(source.state_dict()) and not report.reinitialised
    assert len(report.unused) == 2 * 35 and all("rbr_reparam" in key for key in report.unused)
    assert_same(source, target, 0)


def test_fused_reference_files():
    source = model_of(0)
    for state in (partly_fused_state(source), weights.fold_norms(partly_fused_state(source))):
        target = model_of(1)
        load_weights(target, state)
        assert target.fused
        assert_same(source, target, 5e-3)
    with pytest.raises(CheckpointError, match="fused"):
        load_weights(target, source.state_dict())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_our_files_need_no_other_argument(tmp_path, fused, dtype):
    source = model_of(0, joints=5)
    if fused: source.fuse()
    path = save_checkpoint(tmp_path / "a.safetensors", source, dtype, metrics={"AP": .5})
    target = load_checkpoint(path)
    assert target.fused == fused and target.num_joints == 5 and read_checkpoint(path).metadata["metrics"] == {"AP": .5}
    assert_same(source, target, 1 if dtype else 0)


def test_other_joints(tmp_path):
    source, target = model_of(0, 17), model_of(1, 20)
    with pytest.raises(CheckpointError, match="17 joints, the model 20"):
        load_weights(target, source.state_dict())
    report = load_weights(target, source.state_dict(), new_head=True)
    assert {key.split(".")[2] for key in report.reinitialised} == {"cls_pred", "pose_pred"} and len(report.reinitialised) == 12
    torch.testing.assert_close(outputs(target).scores, outputs(source).scores)
    torch.testing.assert_close(outputs(target).boxes, outputs(source).boxes)
    path = save_checkpoint(tmp_path / "a.safetensors", source)
    assert get("yolo_nas_pose_n", path, num_joints=20).num_joints == 20
    assert get("yolo_nas_pose_n", path).num_joints == 17
    assert get("yolo_nas_pose_n", path, skeleton="animalpose20").skeleton.name == "animalpose20"


def test_errors_name_the_keys(tmp_path):
    model, state = model_of(0), model_of(1).state_dict()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    missing = {k: v for k, v in state.items() if k != "neck.neck1.conv.conv.weight"}
    with pytest.raises(CheckpointError, match="missing.*neck.neck1.conv.conv.weight"):
        load_weights(model, missing)
    with pytest.raises(CheckpointError, match="left over.*surprise"):
        load_weights(model, state | {"surprise": torch.ones(1)})
    with pytest.raises(CheckpointError, match="another shape.*neck.neck1.conv.conv.weight"):
        load_weights(model, state | {"neck.neck1.conv.conv.weight": torch.ones(1, 2, 3, 4)})
    with pytest.raises(CheckpointError, match="shapes of yolo_nas_pose_s"):
        load_weights(model, model_of(0, variant="yolo_nas_pose_s").state_dict())
    with pytest.raises(CheckpointError, match="not a checkpoint of YOLO-NAS"):
        load_weights(model, {"layer1.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match="no weights"):
        load_weights(model, {"epoch": 3})
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


class Bomb:
    def __reduce__(self):
        import os
        return os.mkdir, ("exploded",)


def test_pickled_code_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"net": {"a": torch.ones(1)}, "x": Bomb()}, "bomb.pth")
    torch.save({"net": {"a": torch.ones(1)}, "x": Bomb()}, "old.pth", _use_new_zipfile_serialization=False)
    for name in ("bomb.pth", "old.pth"):
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_truncated_and_empty_files(tmp_path, name):
    model, path = model_of(), tmp_path / name
    save_checkpoint(path, model) if name.endswith("tensors") else torch.save(model.state_dict(), path)
    data = path.read_bytes()
    for cut in (0, 5, 100, len(data) // 2):
        path.write_bytes(data[:cut])
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "none.pth")


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model, path = model_of(), tmp_path / "a.safetensors"
    save_checkpoint(path, model, epoch=1)

    def full(tensors, part, metadata):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, model, epoch=2)
    assert read_checkpoint(path).metadata["epoch"] == 1 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("variant", ["s", "m", "l"])
def test_detectors_initialise_all_but_the_joints(variant, golden):
    "Key lists of the real detectors; values are drawn."
    import json
    keys = json.loads((golden / "keys" / f"yolo_nas_{variant}.json").read_text())
    torch.manual_seed(0)
    state = {key: torch.rand(shape) + .5 if dtype != "torch.int64" else torch.zeros(shape, dtype=torch.int64)
             for key, (shape, dtype) in keys.items()}
    model = YoloNASPose(f"yolo_nas_pose_{variant}")
    report = load_weights(model, state)
    fresh = {".".join(key.split(".")[2:3]) for key in report.reinitialised}
    assert fresh == {"pose_stem", "pose_convs", "cls_pred", "pose_pred"}
    live = [key for key in report.unused if "rbr_reparam" not in key]
    assert len(live) == 6 and all("cls_pred" in key for key in live)
    own = model.state_dict()
    torch.testing.assert_close(own["heads.head1.bbox_stem.seq.conv.weight"], state["heads.head1.stem.seq.conv.weight"])
    var = "backbone.stage1.blocks.conv1.bn.running_var"
    torch.testing.assert_close((own[var].double() + 1e-6), state[var].double() + 1e-3, rtol=1e-6, atol=0)


@pytest.fixture
def host(tmp_path_factory):
    "A host that can refuse, break off, send pages, or serve."
    data = tmp_path_factory.mktemp("host") / "data.pth"
    torch.save(reference_state(model_of(3)), data)
    whole = data.read_bytes()
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Range")))
            kind = self.path.split("/")[1]
            if kind == "forbidden":
                return self.send_error(403)
            begin = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            self.send_response(206 if begin else 200)
            self.send_header("Content-Type", "text/html" if kind == "page" else "application/octet-stream")
            self.send_header("Content-Length", str(len(whole) - begin))
            self.end_headers()
            self.wfile.write(whole[begin:begin + 100_000] if kind == "breaks" else whole[begin:])

        def log_message(self, *args): pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()


FILE = "yolo_nas_pose_n_coco_pose.pth"


def test_hosts_are_tried_in_order_and_a_part_is_continued(host, tmp_path, monkeypatch, capsys):
    url, asked = host
    monkeypatch.setenv("YOLO_NAS_POSE_CACHE", str(tmp_path))
    weights.announce.cache_clear()
    with pytest.raises(OSError) as caught:
        pretrained_path(FILE, (f"{url}/forbidden", f"{url}/page", f"{url}/breaks"))
    message = str(caught.value)
    assert all(word in message for word in ("Forbidden", "web page", "broke off", FILE, str(tmp_path), "pretrained_weights=None"))
    assert [p.name for p in tmp_path.iterdir()] == [f"{FILE}.part"]
    path = pretrained_path(FILE, (f"{url}/serves",))
    assert asked[-1] == (f"/serves/{FILE}", "bytes=100000-")
    assert [p.name for p in tmp_path.iterdir()] == [FILE]
    assert pretrained_path(FILE, ()) == path  # from the cache, no host asked
    assert capsys.readouterr().err.count("no commercial") == 1


def test_licence_is_inherited(host, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_NAS_POSE_CACHE", str(tmp_path))
    monkeypatch.setenv("YOLO_NAS_POSE_WEIGHTS_URL", f"{host[0]}/serves")
    model = get("yolo_nas_pose_n", pretrained_weights="coco_pose", num_joints=5)
    assert model.licence == "deci-yolonas-pose" and model.num_joints == 5
    path = save_checkpoint(tmp_path / "mine.safetensors", model)
    assert load_checkpoint(path).licence == "deci-yolonas-pose"
    assert read_checkpoint(save_checkpoint(tmp_path / "scratch.safetensors", YoloNASPose("yolo_nas_pose_n"))).metadata["licence"] == ""


@pytest.mark.parametrize("name, near", [("yolo_nas_pose_x", "yolo_nas_pose"), ("YOLO-NAS-POSE-S", "yolo_nas_pose_s"), ("resnet", "Known are")])
def test_unknown_names(name, near):
    with pytest.raises(ValueError, match=near):
        get(name)


def test_unknown_weights():
    with pytest.raises(ValueError, match="neither"):
        get("yolo_nas_pose_n", "coco")
    with pytest.raises(ValueError, match="yolo_nas_pose_n only"):
        get("yolo_nas_pose_s", "toy")
