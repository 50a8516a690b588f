"YOLO-NAS-POSE: real-time multi-person pose estimation. Names load on first use, so importing the package is free."
from importlib import import_module as _import_module

__version__ = "0.1.0"

# Public name -> the module that holds it.
_HOME = {
    **dict.fromkeys(["PoseSample", "PoseBatch", "Targets", "RawPoses", "DecodedPoses", "Poses", "LossParts"],
                    "core.structures"),
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
