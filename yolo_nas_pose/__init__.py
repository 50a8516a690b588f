"YOLO-NAS-POSE: real-time multi-person pose estimation. Names load on first use, so importing the package is free."
from importlib import import_module as _import_module

__version__ = "0.1.0"

# Public name -> the module that holds it.
_HOME = {
    **dict.fromkeys(["PoseSample", "PoseBatch", "Targets", "RawPoses", "DecodedPoses", "Poses", "LossParts"],
                    "core.structures"),
    **dict.fromkeys(["Skeleton", "COCO17", "CROWDPOSE14", "ANIMALPOSE20", "get_skeleton"], "core.skeleton"),
    **dict.fromkeys(["draw_poses", "draw_sample", "show_image", "show_grid"], "core.draw"),
    **dict.fromkeys(["toy_scene", "ToyScenes", "write_toy"], "core.toy"),
    **dict.fromkeys(["DataError", "read_image", "image_size"], "data.images"),
    **dict.fromkeys(["find_data", "find_coco"], "data.files"),
    **dict.fromkeys(["CocoPoses", "open_data"], "data.coco"),
    **dict.fromkeys(["estimate_sigmas", "suggest_sigmas"], "data.anatomy"),
    "check_data": "data.doctor",
    "TrainTransform": "data.transforms",
    "MosaicTransform": "data.mosaic",
    "ReferenceTransform": "data.reference",
    **dict.fromkeys(["make_loader", "to_input"], "data.loader"),
    **dict.fromkeys(["YoloNASPose", "VARIANTS"], "model.network"),
    "read_checkpoint": "model.pickles",
    **dict.fromkeys(["load_weights", "save_checkpoint", "load_checkpoint"], "model.weights"),
    **dict.fromkeys(["get", "list_models"], "model.pretrained"),
    **dict.fromkeys(["postprocess", "to_source"], "model.postprocess"),
    "PoseLoss": "loss.pose_loss",
    "evaluate_coco": "metric.average_precision",
    **dict.fromkeys(["summary_table", "plot_precision_recall", "plot_joint_accuracy", "plot_errors"], "metric.report"),
    **dict.fromkeys(["plot_scores", "image_costs", "write_report"], "metric.diagnosis"),
    **dict.fromkeys(["Recipe", "load_recipe", "list_recipes"], "training.recipe"),
    "evaluate": "training.evaluate",
    "fit_batch_size": "training.capacity",
    "plot_history": "training.records",
    **dict.fromkeys(["train", "TrainResult", "TrainingStopped"], "training.loop"),
    **dict.fromkeys(["find_learning_rate", "plot_learning_rates"], "training.rates"),
    **dict.fromkeys(["profile_step", "plot_profile"], "training.profile"),
    "PosePredictions": "deploy.results",
    "predict": "deploy.predict",
    **dict.fromkeys(["export_onnx", "export_openvino"], "deploy.export"),
    **dict.fromkeys(["OnnxPose", "evaluate_file"], "deploy.runtime"),
    "count_graph": "deploy.counts",
    **dict.fromkeys(["environment", "measure_peaks"], "deploy.machine"),
    "Candidate": "deploy.runners",
    **dict.fromkeys(["Benchmark", "timing_table"], "deploy.timings"),
    "benchmark": "deploy.benchmark",
    **dict.fromkeys(["load_peers", "plot_frontier", "plot_stages", "plot_floor", "plot_roofline", "accuracy_table"], "deploy.frontier"),
    **dict.fromkeys(["quantize_ptq", "is_quantized", "set_scheme"], "deploy.quantize"),
    "sensitivity": "deploy.sensitivity",
    **dict.fromkeys(["layer_times", "with_times"], "deploy.layer_times"),
    **dict.fromkeys(["quantize_qat", "qat_recipe"], "deploy.qat"),
}

__all__ = sorted(_HOME)


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(_import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_HOME})
