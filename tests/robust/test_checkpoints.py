"Checkpoints of every kind are matched key for key, or refused with the file and the keys named; downloads survive bad hosts."
import contextlib
import http.server
import os
import pickle
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from yolo_nas_pose.core.skeleton import ANIMALPOSE20, COCO17, Skeleton
from yolo_nas_pose.model import pretrained, weights
from yolo_nas_pose.model.head import decode
from yolo_nas_pose.model.network import NORM_EPS, VARIANTS, YoloNASPose
from yolo_nas_pose.model.pretrained import download, get, list_models, official_file, pretrained_path
from yolo_nas_pose.model.weights import (WeightsError, WeightsFileError, announce, fold_norms, load_checkpoint, load_weights, read_checkpoint,
                                         save_checkpoint)

NANO = "yolo_nas_pose_n"


def joints_named(number):
    return COCO17 if number == 17 else Skeleton.from_names([f"joint_{k}" for k in range(number)])


def model_of(seed=0, joints=17, variant=NANO):
    torch.manual_seed(seed)
    model = YoloNASPose(variant, joints_named(joints)).eval()
    for module in model.modules():  # statistics that make fusing a real operation
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-.2, .2)
            module.running_var.uniform_(.5, 1.5)
    return model


@pytest.fixture(scope="module")
def source():
    "A network that has learned something; never changed."
    return model_of(0)


def outputs(model):
    torch.manual_seed(1)
    with torch.no_grad():
        return decode(model(torch.rand(1, 3, 64, 96)))


def assert_same(a, b, atol=0.):
    for x, y in zip(outputs(a), outputs(b)):
        torch.testing.assert_close(x, y, atol=atol, rtol=0)


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
    "As the reference exports: branches merged, the last norm of a block and the norms of plain pairs as they were."
    state = {key: value for key, value in model.state_dict().items() if ".branch_" not in key}
    twin = model_of(9, model.skeleton.num_joints, model.variant)
    twin.load_state_dict(model.state_dict())
    for key, value in twin.fuse().state_dict().items():
        block, found, part = key.partition(".rbr_reparam.")
        if found:
            norm = {part: state[f"{block}.post_bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")}
            scale = norm["weight"] / (norm["running_var"] + NORM_EPS).sqrt()
            if part == "weight":
                state[key] = value / scale.reshape(-1, 1, 1, 1)
            else:
                state[key] = (value - norm["bias"]) / scale + norm["running_mean"]
    return state


def fully_fused_state(model):
    "As the reference fuses at most: one convolution in each block, plain pairs as they were."
    state = partly_fused_state(model)
    blocks = fold_norms({key: value for key, value in state.items() if ".rbr_reparam." in key or ".post_bn." in key})
    return {key: value for key, value in state.items() if ".post_bn." not in key} | blocks


# Files of the reference

@pytest.mark.parametrize("wrap", [
    lambda s: s, lambda s: {"net": s}, lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}, lambda s: {"net": s, "ema_net": None},
    lambda s: {"net": {k: torch.zeros_like(v) for k, v in s.items()}, "ema_net": s, "acc": np.float64(.5)},
    lambda s: {"net": {f"module.{k}": v for k, v in s.items()}, "epoch": 3, "metrics": {"AP": np.float32(.25)}},
    lambda s: {"net": {f"_orig_mod.{k}": torch.nn.Parameter(v, False) for k, v in s.items()}, "when": np.datetime64("2024-01-01")}])
@pytest.mark.parametrize("zipped", [True, False])
def test_reference_files(tmp_path, source, wrap, zipped):
    target = model_of(1)
    torch.save(wrap(reference_state(source)), tmp_path / "ckpt_best.pth", _use_new_zipfile_serialization=zipped)
    report = load_weights(target, tmp_path / "ckpt_best.pth")
    assert len(report.matched) == len(source.state_dict()) and not report.reinitialised
    assert len(report.unused) == 2 * 35 and all("rbr_reparam" in key for key in report.unused)
    assert "886 of 886" in str(report) and target.metadata == {}
    assert_same(source, target)


class Setting:
    "A class that the reader of the file does not need."

    def __init__(self): self.values = {"lr": .1}


def test_harmless_objects_are_let_through_inert(tmp_path):
    import collections
    import datetime
    import pathlib
    extras = dict(acc=np.float32(.5), epoch=np.int64(3), array=np.arange(3), setting=Setting(), when=datetime.datetime(2024, 1, 1),
                  path=pathlib.PurePosixPath("a/b"), counts=collections.defaultdict(list, a=[1]), words={"a", "b"}, note="text", lr=[.1, .2])
    torch.save({"net": {"a": torch.ones(2)}, **extras, "optimizer_state_dict": {"step": 3}}, tmp_path / "a.pth")
    state, metadata = read_checkpoint(tmp_path / "a.pth")
    assert state["a"].tolist() == [1, 1]
    assert (metadata["acc"], metadata["epoch"], metadata["note"], metadata["lr"]) == (.5, 3, "text", [.1, .2])
    assert "optimizer_state_dict" not in metadata and metadata.get("setting") is None


@pytest.mark.parametrize("make", [partly_fused_state, fully_fused_state, lambda model: fold_norms(partly_fused_state(model))])
def test_fused_files(source, make):
    state, target = make(source), model_of(1)
    report = load_weights(target, state)
    assert target.fused and not target.training and not report.unused and not report.reinitialised
    assert_same(source, target, 5e-3)
    again = model_of(2).fuse()
    load_weights(again, state)
    assert_same(target, again)


def test_unfused_file_into_a_fused_model(source):
    target = model_of(1).fuse()
    report = load_weights(target, reference_state(source))
    assert target.fused and len(report.unused) == 70
    assert_same(source, target, 5e-3)


def test_unfused_file_of_other_joints_into_a_fused_model(source):
    "The joint rows stay as they were, as the report says; box, person and features come from the file."
    target = model_of(1, 20).fuse()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    report = load_weights(target, source.state_dict())
    assert target.fused and len(report.reinitialised) == 12
    for key in report.reinitialised:
        rows = slice(1, None) if "cls_pred" in key else slice(None)
        assert torch.equal(target.state_dict()[key][rows], before[key][rows]), key
    torch.testing.assert_close(outputs(target).scores, outputs(source).scores, atol=5e-3, rtol=0)
    torch.testing.assert_close(outputs(target).boxes, outputs(source).boxes, atol=5e-3, rtol=0)


def test_a_detector_leaves_the_joint_layers_of_a_fused_model(source):
    state = {key.replace("bbox_stem", "stem"): value for key, value in source.state_dict().items() if ".pose_" not in key}
    state |= {key: torch.cat([value] * 5)[:weights.DETECTOR_CLASSES] for key, value in state.items() if "cls_pred" in key}
    target = model_of(1).fuse()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    load_weights(target, state)
    same = {key.split(".")[2] for key, value in target.state_dict().items()
            if key.startswith("heads.") and key.endswith("weight") and torch.equal(value, before[key])}
    assert same == {*weights.JOINT_LAYERS}


def test_the_state_of_a_run_gives_its_running_mean(tmp_path, source, capsys):
    model, path = model_of(2), tmp_path / "state.pt"
    state = {"model": model.state_dict(), "average": source.state_dict(), "optimizer": {"param_groups": [{"lr": .1}]}, "epoch": 3}
    torch.save(state, path)
    load_weights(model, path)
    assert_same(model, source)
    assert model.metadata == {}
    torch.save(state | {"licence": "CC0 + deci-yolonas-pose", "metadata": {"licence": "CC0", "AP": .5}}, path)
    load_weights(model, path)
    assert model.metadata["licence"] == "CC0 + deci-yolonas-pose" and "no commercial" in capsys.readouterr().err
    assert read_checkpoint(path)[1]["AP"] == .5
    torch.save(state | {"metadata": weights.describe(source, {"licence": "CC0"})}, path)
    twin = load_checkpoint(path)
    assert_same(twin, source)
    assert twin.metadata == {"licence": "CC0"}


# Own files

@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_our_files_need_no_other_argument(tmp_path, fused, half):
    model = model_of(0, joints=5)
    model = model.fuse() if fused else model
    path = save_checkpoint(tmp_path / "deep" / "a.safetensors", model, {"AP": np.float64(.5)}, half=half)
    target = load_checkpoint(path)
    assert (target.variant, target.fused, target.skeleton, target.training) == (NANO, fused, model.skeleton, False)
    assert target.metadata["AP"] == .5 and read_checkpoint(path)[1]["version"] == weights.__version__
    assert {value.dtype for value in target.state_dict().values() if value.is_floating_point()} == {torch.float32}
    assert_same(model, target, .5 if half else 0)


def test_a_new_process_rebuilds_the_model(tmp_path, source):
    path = save_checkpoint(tmp_path / "a.safetensors", source)
    code = f"from yolo_nas_pose.model.pretrained import get; m = get({str(path)!r}); print(m.variant, m.skeleton.joints[9])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [NANO, "left_wrist"]


def test_channels_last_models_are_saved(tmp_path, source):
    model = model_of(3).to(memory_format=torch.channels_last)
    assert_same(load_checkpoint(save_checkpoint(tmp_path / "a.safetensors", model)), model, 1e-4)


def test_safetensors_of_others(tmp_path, source):
    from safetensors.torch import save_file
    save_file(source.state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="bare.safetensors does not say which model"):
        load_checkpoint(tmp_path / "bare.safetensors")
    assert_same(source, get(NANO, tmp_path / "bare.safetensors"))


def test_only_safetensors_are_written(tmp_path, source):
    with pytest.raises(WeightsError, match="a.safetensors"):
        save_checkpoint(tmp_path / "a.pth", source)


# Other joints

def test_other_joints(tmp_path, source):
    target = model_of(1, 20)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    report = load_weights(target, source.state_dict())
    assert {key.split(".")[2] for key in report.reinitialised} == {"cls_pred", "pose_pred"} and len(report.reinitialised) == 12
    torch.testing.assert_close(outputs(target).scores, outputs(source).scores)
    torch.testing.assert_close(outputs(target).boxes, outputs(source).boxes)
    for key in report.reinitialised:
        rows = slice(1, None) if "cls_pred" in key else slice(None)
        assert torch.equal(target.state_dict()[key][rows], before[key][rows])
    fused = model_of(2, 20)
    report = load_weights(fused, fold_norms(partly_fused_state(source)))
    assert fused.fused and len(report.reinitialised) == 12
    torch.testing.assert_close(outputs(fused).boxes, outputs(source).boxes, atol=5e-3, rtol=0)


def test_joints_of_a_model_by_name(tmp_path, source):
    path = save_checkpoint(tmp_path / "a.safetensors", source)
    torch.save({"net": model_of(0, 5).state_dict()}, tmp_path / "five.pth")
    assert get(NANO).skeleton == get(NANO, path).skeleton == COCO17
    assert get(NANO, path, num_joints=17).skeleton == COCO17
    assert get(NANO, path, num_joints=20).skeleton.num_joints == 20
    assert get(NANO, path, 3, "animalpose20").skeleton == get(path, skeleton="animalpose20").skeleton == ANIMALPOSE20
    assert get(NANO, tmp_path / "five.pth").skeleton.num_joints == 5
    five = get(NANO, tmp_path / "five.pth", skeleton=Skeleton.from_names("abcde"))
    assert five.skeleton.joints == tuple("abcde")
    assert_same(five, model_of(0, 5))
    renamed = get(path, skeleton=Skeleton.from_names([f"x{k}" for k in range(17)]))  # as many, but others: they begin anew
    assert not torch.equal(renamed.heads.head1.pose_pred.weight, source.heads.head1.pose_pred.weight)
    with pytest.raises(ValueError, match="at least one joint"):
        get(NANO, num_joints=0)


# Refusals

def test_errors_name_the_keys(source):
    model, state = model_of(2), source.state_dict()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    kernel = "neck.neck1.conv.conv.weight"
    cases = {f"missing: {kernel}": {key: value for key, value in state.items() if key != kernel},
             "unexpected: surprise": state | {"surprise": torch.ones(1)},
             rf"another shape: {kernel} \(1, 2, 3, 4\) instead of": state | {kernel: torch.ones(1, 2, 3, 4)},
             "It fits yolo_nas_pose_s": YoloNASPose("yolo_nas_pose_s").state_dict(),
             "It fits yolo_nas_pose_m: ": YoloNASPose("yolo_nas_pose_m").fuse().state_dict(),
             "not a checkpoint of YOLO-NAS: it holds layer1.weight": {"layer1.weight": torch.ones(1)},
             "no weights inside": {"epoch": 3},
             "missing: backbone.stage1.downsample.rbr_reparam.bias":
                 {key: value for key, value in fold_norms(partly_fused_state(source)).items() if key != "backbone.stage1.downsample.rbr_reparam.bias"}}
    for message, bad in cases.items():
        with pytest.raises(WeightsError, match=message):
            load_weights(model, bad)
    assert not model.fused
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_heads_that_disagree_about_the_joints_are_refused(source):
    state = source.state_dict() | {"heads.head2.pose_pred.bias": torch.zeros(10)}
    with pytest.raises(WeightsError, match="heads.head2.pose_pred.bias"):
        load_weights(model_of(1), state)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variant_is_guessed_from_any_kind_of_file(variant):
    for fused in (False, True):
        state = {key: torch.empty(shape, device="meta") for key, shape in weights.shapes_of(variant, fused=fused).items()}
        assert weights.guess_variant(state) == variant


class Order:
    def __init__(self, call, *values): self.call, self.values = call, values
    def __reduce__(self): return self.call, self.values


@pytest.mark.parametrize("call, values, name", [
    (os.mkdir, ("exploded",), "mkdir"), (os.system, ("mkdir exploded",), "system"), (eval, ("__import__('os').mkdir('exploded')",), "eval"),
    (subprocess.getoutput, ("mkdir exploded",), "getoutput"), (__import__, ("os",), "__import__"), (pickle.loads, (b"x",), "loads"),
    (time.sleep, (600,), "sleep")])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_never_run(tmp_path, monkeypatch, call, values, name, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"net": {"a": torch.ones(1)}, "x": Order(call, *values)}, "bomb.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=rf"bomb.pth: it wants Python to call \S*{name}: that is code, not weights. It was NOT executed"):
        read_checkpoint("bomb.pth")
    assert not (tmp_path / "exploded").exists()


def test_packages_are_not_called_either(tmp_path):
    "Functions of installed packages that run text: replaced by something inert."
    torch.save({"net": {"a": torch.ones(1)}, "x": Order(torch.load, str(tmp_path / "nothing.pth")), "y": Order(np.fromfile, "nothing")}, tmp_path / "a.pth")
    state, metadata = read_checkpoint(tmp_path / "a.pth")
    assert list(state) == ["a"] and not any(metadata.values())


def test_whole_models_are_refused(tmp_path, source):
    torch.save(source, tmp_path / "whole.pth")
    with pytest.raises(WeightsError, match="whole.pth: there are no weights inside.*Save model.state_dict"):
        read_checkpoint(tmp_path / "whole.pth")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "old.pth"])
def test_damaged_files(tmp_path, source, name):
    path = tmp_path / name
    if name.endswith("tensors"):
        save_checkpoint(path, source)
    else:
        torch.save(source.state_dict(), path, _use_new_zipfile_serialization=name == "a.pth")
    data = path.read_bytes()
    for content in (data[:5], data[:100], data[:len(data) // 2], data[:-1000], b"<html>gone</html>", b"\0" * 5000, b"\xff" * 5000):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=f"{name} cannot be read as weights"):
            read_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match=f"{name} is empty"):
        read_checkpoint(path)


@pytest.mark.parametrize("description, reason", [
    ('{"variant": "yolo_nas_pose_q", "skeleton": "coco17"}', "no model 'yolo_nas_pose_q'"),
    ('{"variant": "yolo_nas_pose_n", "skeleton": {}}', "a skeleton is made of name, joints"), ('{"variant": "yolo_nas_pose_n", "skeleton": 5}', "no skeleton 5"),
    ('{"variant": [], "skeleton": "coco17"}', "TypeError"), ('{"variant": "yolo_nas_pose_n", "skeleton": "coco17"}', "not a checkpoint of YOLO-NAS"),
    ("[]", "does not say which model"), ("5", "does not say which model"), ("{", "cannot be read as weights")])
def test_odd_descriptions(tmp_path, description, reason):
    from safetensors.torch import save_file
    save_file({"a": torch.ones(1)}, tmp_path / "odd.safetensors", {"yolo_nas_pose": description})
    with pytest.raises(WeightsError, match=f"odd.safetensors.*{reason}"):
        get(tmp_path / "odd.safetensors")


@pytest.mark.parametrize("thing", [None, 5, torch.nn.Identity()])
def test_what_is_no_source_of_weights(source, thing):
    with pytest.raises(WeightsError, match=f"a file, or tensors by key such as model.state_dict.., not {type(thing).__name__}"):
        load_weights(source, thing)


def test_missing_files_and_folders(tmp_path):
    for missing in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(WeightsFileError, match="there is no weights file"):
            read_checkpoint(missing)
    assert issubclass(WeightsFileError, OSError) and issubclass(WeightsFileError, ValueError)


# Writing

@pytest.mark.parametrize("kind", ["disk full", "killed"])
def test_a_failed_save_leaves_the_old_file(tmp_path, source, monkeypatch, kind):
    path = save_checkpoint(tmp_path / "a.safetensors", source, {"epoch": 1})

    def fail(part, data):
        with open(part, "wb") as file:
            file.write(data[:4])
        raise OSError(28, "No space left on device") if kind == "disk full" else KeyboardInterrupt

    monkeypatch.setattr(weights.Path, "write_bytes", fail)
    if kind == "killed":  # as after a power cut: the part may stay, the file is whole
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, source, {"epoch": 2})
    else:
        with pytest.raises(WeightsFileError, match="a.safetensors: cannot write this checkpoint .No space left"):
            save_checkpoint(path, source, {"epoch": 2})
        assert len(list(tmp_path.iterdir())) == 1
    assert read_checkpoint(path)[1]["epoch"] == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
def test_others_may_read_a_checkpoint(tmp_path, source):
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            path = save_checkpoint(tmp_path / "a.safetensors", source)
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == mode


def test_folders_that_cannot_be_written(tmp_path, source):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WeightsFileError, match="a.safetensors: cannot write this checkpoint"):
        save_checkpoint(tmp_path / "file" / "a.safetensors", source)


# Downloads

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("host") / "data.pth"
    torch.save({"net": reference_state(model_of(3))}, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def host(whole):
    "A host that can refuse, break off, send pages, hang, or serve; and what it was asked."
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Range")))
            kind = self.path.split("/")[1]
            if kind == "forbidden":
                return self.send_error(403)
            time.sleep({"hangs": 6, "late": .6}.get(kind, 0))
            begin = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            begin = 0 if kind == "ignorant" or (kind != "liar" and self.headers.get("If-Range") != TAG) else begin
            if begin >= len(whole):
                return self.send_error(416)
            body = {"page": b"<html>sign in</html>", "disguised": b"<html>sign in</html>", "code": code}.get(kind, whole)[begin:]
            self.send_response(206 if begin else 200)
            self.send_header("Content-Type", "text/html" if kind == "page" else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", TAG)
            with contextlib.suppress(ConnectionError):  # nobody waits any more
                self.end_headers()
                self.wfile.write(body[:100_000])
                time.sleep(kind == "slow")
                self.wfile.write(b"" if kind == "breaks" else body[100_000:])

        def log_message(self, *args): pass

    import io
    buffer = io.BytesIO()
    torch.save({"net": {"a": torch.ones(1)}, "x": Order(os.mkdir, "exploded")}, buffer)
    code = buffer.getvalue()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "An empty cache; no other host than those a test names."
    monkeypatch.setenv("YOLO_NAS_POSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("YOLO_NAS_POSE_WEIGHTS_URL", raising=False)
    monkeypatch.setattr(pretrained, "HOSTS", ())
    announce.cache_clear()
    return tmp_path / "cache"


FILE = official_file(NANO)
TAG = '"edition 1"'  # of the file that the host has


def names(cache):
    "Of the files in a cache, without what may lie beside them."
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def leave_part(cache, content, tag=TAG):
    cache.mkdir()
    (cache / f"{FILE}.part").write_bytes(content)
    if tag:
        (cache / f"{FILE}.part.etag").write_text(tag)


def test_the_official_names():
    assert FILE == "yolo_nas_pose_n_coco_pose.pth"
    assert [host.split("/")[2] for host in pretrained.HOSTS] == ["sghub.deci.ai", "sg-hub-nv.s3.amazonaws.com", "d2gjn4b69gu75n.cloudfront.net"]


def test_hosts_are_tried_in_order_and_a_part_is_continued(host, cache, whole, monkeypatch):
    url, asked = host
    monkeypatch.setattr(pretrained, "HOSTS", (f"{url}/forbidden", f"{url}/page", f"{url}/breaks"))
    with pytest.raises(WeightsFileError) as caught:
        pretrained_path(NANO)
    message = str(caught.value)
    assert all(word in message for word in ("Forbidden", "web page", "broke off at 100,000", f"put it at {cache / FILE}", "YOLO_NAS_POSE_WEIGHTS_URL",
                                            "pretrained_weights=None"))
    assert names(cache) == [f"{FILE}.part", f"{FILE}.part.etag"]
    monkeypatch.setenv("YOLO_NAS_POSE_WEIGHTS_URL", f"{url}/serves/")
    path = pretrained_path(NANO)
    assert asked[-1] == (f"/serves/{FILE}", "bytes=100000-")
    assert names(cache) == [FILE] and path.read_bytes() == whole
    number = len(asked)
    assert pretrained_path(NANO) == path and len(asked) == number  # from the cache, no host asked


def test_hosts_without_ranges_begin_again(host, cache, whole):
    leave_part(cache, b"something else")
    assert download([f"{host[0]}/ignorant/{FILE}"], cache / FILE).read_bytes() == whole


def test_a_part_longer_than_the_file_is_dropped(host, cache, whole):
    leave_part(cache, whole + b"more")
    assert download([f"{host[0]}/serves/{FILE}"], cache / FILE).read_bytes() == whole


def test_a_whole_part_is_no_obstacle(host, cache, whole):
    leave_part(cache, whole)
    assert download([f"{host[0]}/serves/{FILE}"], cache / FILE).read_bytes() == whole


@pytest.mark.parametrize("kind", ["serves", "liar"])
@pytest.mark.parametrize("tag", ['"edition 2"', None])
def test_a_part_of_another_file_is_not_continued(host, cache, whole, kind, tag):
    leave_part(cache, b"of another file", tag)
    assert download([f"{host[0]}/{kind}/{FILE}"], cache / FILE).read_bytes() == whole
    assert names(cache) == [FILE]


def test_two_processes_that_want_the_same_file(host, cache, whole):
    "One fetches, the other waits for it."
    url, asked = host
    code = ("import sys; from pathlib import Path; from yolo_nas_pose.model.pretrained import download; print('ready', flush=True);"
            "input(); print(download([sys.argv[1]], Path(sys.argv[2])))")
    command = [sys.executable, "-c", code, f"{url}/slow/{FILE}", str(cache / FILE)]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.stdout.readline().strip() for process in both] == ["ready", "ready"]
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=300) for process in both]
    assert [out.strip() for out, _ in said] == [str(cache / FILE)] * 2, said
    assert sum(path == f"/slow/{FILE}" for path, _ in asked) == 1
    assert (cache / FILE).read_bytes() == whole and names(cache) == [FILE]


@pytest.mark.parametrize("folder", ["file/cache", "/proc"])
def test_a_cache_that_cannot_be_written(host, tmp_path, monkeypatch, folder):
    if folder == "/proc" and not os.path.isdir(folder):
        pytest.skip("no folder that nobody can write to")
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("YOLO_NAS_POSE_CACHE", str(tmp_path / folder))
    monkeypatch.setenv("YOLO_NAS_POSE_WEIGHTS_URL", f"{host[0]}/serves")
    number = len(host[1])
    with pytest.raises(WeightsFileError, match="cannot write into .*: set YOLO_NAS_POSE_CACHE to a folder") as caught:
        pretrained_path(NANO)
    assert "put it at" not in str(caught.value) and len(host[1]) == number


@pytest.mark.parametrize("kind, reason", [("disguised", "cannot be read as weights"), ("code", "NOT executed"), ("page", "web page")])
def test_what_is_no_weights_file_does_not_stay(host, cache, kind, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsFileError, match=reason):
        download([f"{host[0]}/{kind}/{FILE}"], cache / FILE)
    assert names(cache) == [] and not (tmp_path / "exploded").exists()


def test_silent_hosts_are_left(host, cache):
    begin = time.perf_counter()
    path = download([f"{host[0]}/hangs/{FILE}", f"{host[0]}/serves/{FILE}"], cache / FILE, timeout=.3)
    assert path.is_file() and time.perf_counter() - begin < 20


def test_hosts_that_never_open_are_left_soon(host, cache, monkeypatch):
    "The time for a connection is not that for a byte."
    assert pretrained.CONNECT_TIMEOUT <= 5
    monkeypatch.setattr(pretrained, "CONNECT_TIMEOUT", .2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call, never shakes hands
        begin = time.perf_counter()
        download([f"https://127.0.0.1:{silent.getsockname()[1]}/{FILE}", f"{host[0]}/late/{FILE}"], cache / FILE, timeout=60)
        assert time.perf_counter() - begin < 30


def test_hosts_that_do_not_exist(cache):
    with pytest.raises(WeightsFileError, match="refused(.|\n)*put it at"):
        download(["http://127.0.0.1:9/models/a.pth", "no address"], cache / FILE)


def test_licence_is_told_once_and_inherited(host, cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("YOLO_NAS_POSE_WEIGHTS_URL", f"{host[0]}/serves")
    model = get(NANO, pretrained_weights="coco_pose", num_joints=5)
    assert model.metadata["licence"] == "deci-yolonas-pose" and model.skeleton.num_joints == 5 and not model.training
    path = save_checkpoint(tmp_path / "mine.safetensors", model)
    grandchild = model_of(1, 5)
    load_weights(grandchild, path)
    for heir in (load_checkpoint(path), get(path), get(NANO, path, skeleton="animalpose20"), grandchild,
                 load_checkpoint(save_checkpoint(tmp_path / "b.safetensors", model, {"licence": "mine"}))):
        assert "deci-yolonas-pose" in heir.metadata["licence"].split(" + ")
    told = capsys.readouterr()
    assert told.err.count("no commercial") == 1 and not told.out
    assert load_checkpoint(save_checkpoint(tmp_path / "scratch.safetensors", model_of(1))).metadata == {}


def test_official_detector_files_carry_the_licence_too(tmp_path, source, capsys):
    torch.save({"net": source.state_dict()}, tmp_path / "yolo_nas_s_coco.pth")
    model = model_of(1)
    load_weights(model, tmp_path / "yolo_nas_s_coco.pth")
    assert model.metadata == {"licence": "deci-yolonas-pose"}


# Names

@pytest.mark.parametrize("name, near", [("yolo_nas_pose_x", "yolo_nas_pose"), ("YOLO-NAS-POSE-S", "did you mean 'yolo_nas_pose_s'"), ("resnet", "Known: ")])
def test_unknown_names(name, near):
    with pytest.raises(ValueError, match=near):
        get(name)


def test_unknown_weights(tmp_path, source):
    with pytest.raises(WeightsError, match="'coco': neither 'coco_pose' nor 'toy'"):
        get(NANO, "coco")
    with pytest.raises(WeightsError, match="yolo_nas_pose_n only"):
        get("yolo_nas_pose_s", "toy")
    path = save_checkpoint(tmp_path / "a.safetensors", source)
    with pytest.raises(WeightsError, match="holds yolo_nas_pose_n, not yolo_nas_pose_s"):
        get("yolo_nas_pose_s", path)
    with pytest.raises(ValueError, match="leave pretrained_weights out"):
        get(path, "coco_pose")
    with pytest.raises(WeightsFileError, match="there is no weights file"):
        get(tmp_path / "none.safetensors")


def test_toy_weights_or_a_clear_error(monkeypatch):
    monkeypatch.setattr(pretrained, "TOY_FILE", "yolo_nas_pose_n_absent.safetensors")
    with pytest.raises(WeightsFileError, match="yolo_nas_pose_n_absent.safetensors is missing"):
        get(NANO, "toy")
    assert all(row["weights"] == ["coco_pose"] for row in list_models())


def test_list_of_models():
    rows = list_models()
    assert [row["name"] for row in rows] == list(VARIANTS)
    assert [row["published_ap"] for row in rows] == [.5968, .6415, .6787, .6824]


def test_other_joints_are_announced(capsys):
    "Who replaces the joints of a checkpoint is told what begins anew; who does not, hears nothing."
    get(NANO, "toy", skeleton="animalpose20")
    assert "coco17, not those of animalpose20" in capsys.readouterr().err
    get(NANO, "toy", skeleton="coco17")
    get(NANO, num_joints=5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name, content, what", [("a.jpg", b"\xff\xd8\xff\xe0 photograph", "a JPEG picture"), ("b.pth", b"\x89PNG\r\n\x1a\n....", "a PNG picture"),
                                                 ("c.pt", b"RIFF\x10\0\0\0WEBPVP8 ", "a WebP picture"), ("d.safetensors", b"\n<html>404</html>", "a web page"),
                                                 ("e.pth", b"0 0.5 0.5 0.1 0.1\n", "a text file")])
def test_what_is_no_weights_file_is_named(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name} cannot be read as weights: it is {what}.*safetensors"):
        get(tmp_path / name)
