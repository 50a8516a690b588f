"A recipe that cannot be used says which key, what was expected, and what is near."
import pytest
import yaml

from yolo_nas_pose.core.skeleton import Skeleton, get_skeleton
from yolo_nas_pose.training.recipe import Recipe, RecipeError, dump_recipe, list_recipes, load_recipe


@pytest.mark.parametrize("key, near", [("epoch", "epochs"), ("learning_rate", None), ("batchsize", "batch_size"), ("LR", "lr"),
                                       ("pose_weight", "pose_"), ("imagesize", "image_size")])
def test_unknown_keys_are_named(key, near):
    with pytest.raises(RecipeError, match=f"unknown key '{key}'") as error:
        load_recipe("toy", **{key: 1})
    assert near is None or f"did you mean '{near}" in str(error.value) or near == "lr"


@pytest.mark.parametrize("key, value", [("lr", "fast"), ("lr", -1), ("lr", 0), ("epochs", 0), ("epochs", 1.5), ("image_size", 100), ("flip", 2),
                                        ("precision", "int8"), ("scale", [2, 1]), ("scale", 1), ("cls_loss", "mse"), ("ema_decay", 1),
                                        ("workers", -1), ("trackers", "maybe"), ("batch_size", "most"), ("average_best", -1), ("max_broken", 2), ("norms", "group"), ("freeze", 3), ("model", 3),
                                        ("mosaic_p", 2), ("mosaic_zoom", [1, .5]), ("pipeline", "old"), ("multi_scale", 1), ("close_epochs", -1)])
def test_ill_typed_values_are_named(key, value):
    with pytest.raises(RecipeError, match=key):
        load_recipe("toy", **{key: value})


@pytest.mark.parametrize("key, value", [("epochs", True), ("lr", True), ("workers", False), ("scale", [True, 2]), ("clip_norm", True), ("batch_size", True),
                                        ("lr", float("inf")), ("lr", float("nan")), ("clip_norm", float("inf")), ("scale", [.5, float("inf")]),
                                        ("cls_weight", float("nan")), ("ema_beta", "inf"), ("epochs", float("inf"))])
def test_neither_truth_values_nor_infinities_are_numbers(key, value):
    with pytest.raises(RecipeError, match=f"{key}: "):
        load_recipe("toy", **{key: value})


def test_no_number_key_takes_a_truth_value():
    for key, field in Recipe.model_fields.items():
        if field.annotation is bool:
            assert load_recipe("toy", **{key: True})
        else:
            with pytest.raises(RecipeError, match=key):
                load_recipe("toy", **{key: True})


def test_a_key_of_old_is_explained():
    with pytest.raises(RecipeError, match="now called trackers"):
        load_recipe("toy", tensorboard=False)


def test_recipes_that_mix_nothing_still_mix_nothing():
    for name in ("toy", "finetune"):
        r = load_recipe(name)
        assert (r.pipeline, r.mosaic_p, r.mixup_p, r.paste_p, r.multi_scale, r.shear, r.quarter_turn_p, r.swap_channels_p) == ("one_warp", *[0] * 7)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(RecipeError) as error:
        load_recipe({"epoch": 1, "lr": -1, "flip": 3})
    assert all(word in str(error.value) for word in ("epoch", "lr", "flip"))


@pytest.mark.parametrize("text, words", [("lr: [", "no readable YAML"), ("- 1\n- 2", "key: value"), ("base: nowhere\n", "no recipe 'nowhere'"),
                                         ("!!python/object/apply:os.system [echo]", "no readable YAML"), ("1: 2", "keys must be words|unknown key")])
def test_broken_files(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words):
        load_recipe(path)


def test_unknown_name_has_neighbours():
    with pytest.raises(RecipeError, match="did you mean 'coco_s'"):
        load_recipe("coco-s")


def test_a_base_has_no_base(tmp_path):
    (tmp_path / "a.yaml").write_text("base: toy\n")
    (tmp_path / "b.yaml").write_text(f"base: {tmp_path / 'a.yaml'}\n")
    assert load_recipe(tmp_path / "a.yaml").data == "toy"
    with pytest.raises(RecipeError, match="base of its own"):
        load_recipe(tmp_path / "b.yaml")


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_of_the_package(name):
    from importlib.resources import files
    text = (files("yolo_nas_pose") / "recipes" / f"{name}.yaml").read_text()
    recipe = load_recipe(name)
    assert len(text.splitlines()) <= 40 and recipe.description
    assert load_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe
    stated = yaml.safe_load(text)
    repeated = [k for k, v in stated.items() if Recipe.model_fields[k].default == (tuple(v) if isinstance(v, list) else v)]
    assert set(repeated) <= {"model", "data", "image_size", "weights", "epochs", "ema_decay", "batch_size", "lr", "ema_law", "dfl_weight", "pose_reg_weight",
                             "rotation", "scale", "workers", "val_batch_size"}


def test_coco_recipes_are_those_of_the_reference():
    table = {"n": (60, 2e-3, .01, 34, "threshold"), "s": (48, 2e-3, .01, 34, "threshold"), "m": (32, 1e-4, .5, 10, "exp"), "l": (24, 8e-5, .5, 10, "exp")}
    for size, numbers in table.items():
        r = load_recipe(f"coco_{size}")
        assert (r.batch_size, r.lr, r.dfl_weight, r.pose_reg_weight, r.ema_law) == numbers
        assert (r.epochs, r.warmup_steps, r.warmup_lr, r.hold_epochs, r.final_lr_ratio) == (1000, 128, 1e-6, 10, .05)
        heavy = (.3, 25, .75, .5, .5, 7, (.6, 1.75)) if size in "ml" else (.2, 20, .5, 0, 0, 5, (.75, 1.5))
        assert (r.light, r.colour, r.colour_p, r.swap_channels_p, r.quarter_turn_p, r.rotation, r.scale) == heavy
        assert (r.mosaic_p, r.mixup_p, r.paste_p, r.close_epochs, r.multi_scale, r.translation, r.affine_p) == (.5, 0, 0, 0, 0, .1, .75)
        assert (r.weight_decay, r.ema_decay, r.ema_beta, r.patience, r.precision) == (1e-6, .997, 50, 100, "fp16")


def test_a_skeleton_of_ones_own_is_a_part_of_the_recipe(tmp_path):
    "As a value, as plain words of a file with names for numbers, and after writing and reading."
    gauge = Skeleton.from_names(["hub", "left_end", "right_end"], [("hub", "left_end")], sigmas=[.03, .05, .05], name="gauge")
    (tmp_path / "mine.yaml").write_text("base: finetune\nskeleton:\n  joints: [hub, left_end, right_end]\n  links: [[hub, left_end]]\n"
                                        "  sigmas: [.03, .05, .05]\n  name: gauge\n")
    for recipe in (load_recipe("finetune", skeleton=gauge), load_recipe(tmp_path / "mine.yaml")):
        assert get_skeleton(recipe.skeleton) == gauge and recipe == load_recipe(recipe)
        (tmp_path / "all.yaml").write_text(dump_recipe(recipe))
        assert load_recipe(tmp_path / "all.yaml") == recipe


@pytest.mark.parametrize("skeleton, words", [({"joint": ["a"]}, "only joints must be there"), ({"joints": ["a", "a"]}, "no name twice"),
                                             ({"joints": ["a", "b"], "links": [["a", "c"]]}, "there is no joint 'c'"), (3, "skeleton")])
def test_a_skeleton_that_is_none_is_explained(skeleton, words):
    with pytest.raises(RecipeError, match=words):
        load_recipe("finetune", skeleton=skeleton)


@pytest.mark.parametrize("name", sorted(set(list_recipes()) - {"toy"}))
def test_what_ap_to_expect_is_said(name):
    from importlib.resources import files
    text = (files("yolo_nas_pose") / "recipes" / f"{name}.yaml").read_text()
    assert "Expected AP: " in text
    assert ("published for" in text) == (name in {f"coco_{size}" for size in "nsml"})


def test_the_short_schedule_closes_its_mosaics():
    recipe = load_recipe("coco_s_short")
    assert recipe.mosaic_p > 0 and 0 < recipe.close_epochs < recipe.epochs
