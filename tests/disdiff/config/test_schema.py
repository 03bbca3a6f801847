import ast
import re
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from disdiff.build import build_denoiser, build_latent_space, build_model, get_system
from disdiff.config.schema import (
    CONFIGS,
    PATHS,
    PRESETS,
    Config,
    RunConfig,
    TrainerConfig,
    load_config,
    merge,
    name_config,
    read_yaml,
    select,
    to_yaml,
)
from disdiff.config.trees import check_keys
from disdiff.config.yaml_texts import list_kinds
from ldm.errors import UserError
from ldm.training.optimizer import TrainConfig

ROOT = CONFIGS.parent
DATA_SETS = {path.stem for path in (CONFIGS / "_shared").glob("*.yaml")} - {
    "shapes3d"
}  # test_data_configs.py
FILES = sorted(
    path
    for path in CONFIGS.glob("*/*.yaml")
    if path.parent.name not in ("_shared", "prompts") and path.stem not in DATA_SETS
)
SHAPES3D = CONFIGS / "disdiff" / "shapes3d.yaml"


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a tree as a YAML file."""

    def save(name, text):
        path = tmp_path / name
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
        return path

    return save


def test_there_are_configurations():
    assert SHAPES3D in FILES


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_file_loads_and_survives_being_saved(path, preset, write):
    config = load_config([path], [f"preset={preset}"])
    assert (config.preset, config.system) == (preset, read_yaml(path).system)
    assert config.run.name == f"{path.parent.name}-{path.stem}-{preset}-s0"
    assert merge([read_yaml(write("saved.yaml", to_yaml(config)))]) == config


def test_a_misspelt_key_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="'code.num_unit'; did you mean 'code.num_units'"):
        load_config([SHAPES3D], ["code.num_unit=3"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_file_builds_a_model(path):
    config = load_config([path], ["preset=smoke"])
    latent_space = build_latent_space(config)
    model = build_model(config, latent_space, build_denoiser(config, latent_space), image_size=64)
    if "code" not in get_system(config).stages:
        assert model is None
    else:
        code = config.code
        assert model.num_units == (code.unit_dim if config.system == "pdae" else code.num_units)


def test_a_file_of_a_data_set_is_short():
    assert not [path for path in FILES if len(path.read_text().splitlines()) > 20]


def test_every_file_speaks_of_known_keys_only():
    for path in CONFIGS.rglob("*.yaml"):
        if path.stem not in DATA_SETS and path.parent.name != "prompts":
            tree = read_yaml(path)
            tree.pop("bases", None)
            check_keys(tree, Config)


def test_the_merge_order(write, monkeypatch, tmp_path):
    """Bases, then the preset, then the files from left to right, then the overrides."""
    shared = tmp_path / "configs" / "_shared"
    (shared / "presets").mkdir(parents=True)
    monkeypatch.setattr("disdiff.config.schema.CONFIGS", tmp_path / "configs")
    keys = ["stage_seed", "seed", "data.num_workers", "evaluation.seed", "evaluation.num_pairs"]

    def tree(count, value, **extra):
        return {**{key: value for key in keys[:count]}, **extra}

    def nest(flat):
        nested = {}
        for key, value in flat.items():
            *parents, last = key.split(".")
            node = nested
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
        return nested

    (shared / "base.yaml").write_text(yaml.safe_dump(nest(tree(5, 1))))
    (shared / "presets" / "small.yaml").write_text(yaml.safe_dump(nest(tree(4, 2))))
    left = write("left.yaml", nest(tree(3, 3, bases=["base"])))
    right = write("right.yaml", nest(tree(2, 4)))
    config = load_config([left, right], ["stage_seed=5"])
    found = [
        config.stage_seed,
        config.seed,
        config.data.num_workers,
        config.evaluation.seed,
        config.evaluation.num_pairs,
    ]
    assert found == [5, 4, 3, 2, 1]


def test_a_preset_may_stand_in_a_file_and_an_override_beats_it(write):
    path = write("own.yaml", {"bases": ["shapes3d"], "preset": "smoke"})
    assert (
        load_config([path]).autoencoder.train.images
        == load_config([SHAPES3D], ["preset=smoke"]).autoencoder.train.images
    )
    assert load_config([path], ["preset=paper"]).preset == "paper"


def test_lists_are_replaced_and_numbers_read_as_yaml():
    config = load_config(
        [SHAPES3D], ["latent_diffusion.unet.channel_mult=[1,3]", "code.train.learning_rate=1e-3"]
    )
    assert config.latent_diffusion.unet.channel_mult == [1, 3]
    assert config.code.train.learning_rate == 1e-3
    assert load_config([SHAPES3D], ["code.train.grad_clip=null"]).code.train.grad_clip is None


def test_the_run_is_named_after_file_preset_and_seed(write):
    assert load_config([SHAPES3D], ["seed=3"]).run.name == "disdiff-shapes3d-small-s3"
    assert load_config([SHAPES3D], ["run.name=mine"]).run.name == "mine"
    assert name_config(write("my-own.yaml", {})) == "my-own"


def test_the_name_does_not_depend_on_where_the_package_is_installed():
    """In a checkout the package may be installed elsewhere (`pip install .`)."""
    assert name_config(Path("/checkout/configs/disdiff/shapes3d.yaml")) == name_config(SHAPES3D)
    assert name_config(Path("/configs/old/configs/mine.yaml")) == "mine"


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("code.num_unit=3", "code.num_units"),
        ("sead=3", "seed"),
        ("codes.num_units=3", "code"),
        ("factors.num_units=3", "code"),  # another name, known by its key
        ("weight_disentangle=0.1", "code.loss.weight_disentangle"),
        ("autoencoder.trian.images=100", "autoencoder.train"),
    ],
)
def test_a_misspelt_key_names_the_nearest(override, nearest):
    with pytest.raises(UserError, match=f"unknown configuration key .*; did you mean '{nearest}'"):
        load_config([SHAPES3D], [override])


@pytest.mark.parametrize(
    "override",
    [
        "seed=many",
        "seed=1.5",
        "code.train.learning_rate=fast",
        "code.num_units=null",
        "code=3",
        "code.encoder=image",
        "latent_diffusion.unet.channel_mult=4",
        "latent_diffusion.unet.channel_mult=[1,two]",
        "code.loss.detach_condition=maybe",
        "autoencoder.train=null",
    ],
)
def test_a_value_of_the_wrong_type_is_named(override):
    key = override.split("=")[0]
    with pytest.raises(UserError, match=f"{re.escape(key)}.*wrong type"):
        load_config([SHAPES3D], [override])


@pytest.mark.parametrize("text", ["a: [1, 2", "- 1\n- 2", "a: b: c", "\t- x: 1"])
def test_a_file_that_is_no_mapping(write, text):
    path = write("bad.yaml", text)
    with pytest.raises(UserError, match="bad.yaml"):
        load_config([path])


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="cannot read the configuration .*absent.yaml"):
        load_config([tmp_path / "absent.yaml"])
    with pytest.raises(UserError, match="cannot read the configuration"):
        load_config([tmp_path])


def test_binary_rubbish_is_no_yaml(tmp_path):
    (tmp_path / "bad.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="bad.yaml"):
        load_config([tmp_path / "bad.yaml"])


@pytest.mark.parametrize("override", ["seed", "--seed=1", "-x", "seed: 1"])
def test_what_is_no_override_is_refused(override):
    with pytest.raises(UserError, match="is not an override; write key=value"):
        load_config([SHAPES3D], [override])


def test_an_unknown_preset_or_base(write):
    with pytest.raises(UserError, match="'tiny'; choose one of small, smoke, paper"):
        load_config([SHAPES3D], ["preset=tiny"])
    with pytest.raises(UserError, match="absent"):
        load_config([write("own.yaml", {"bases": ["absent"]})])


def test_bases_must_be_a_list(write):
    with pytest.raises(UserError, match="bases"):
        load_config([write("own.yaml", {"bases": "shapes3d"})])


# classes that are given a whole section: an instance of the first, or its attribute `config`, holds its keys
GIVEN = {"Machine": TrainerConfig, "StageTask": TrainConfig}


def list_sections(schema, key="config"):
    """(class, name) of a section of the configuration and of those within it."""
    yield schema, key
    for item in fields(schema):
        if is_dataclass(item.type):
            yield from list_sections(item.type, item.name)


def last_name(node):
    """`c` of the expressions `c`, `a.b.c` and `a.b.c()`."""
    node = node.func if isinstance(node, ast.Call) else node
    return getattr(node, "id", getattr(node, "attr", None))


def list_names(annotation):
    return {node.id for node in ast.walk(annotation or ast.Tuple([])) if isinstance(node, ast.Name)}


def list_annotations(tree):
    """(name, annotation) of parameters, attributes and results of functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg, node.annotation
        elif isinstance(node, ast.AnnAssign):
            yield last_name(node.target), node.annotation
        elif isinstance(node, ast.FunctionDef):
            yield node.name, node.returns


def list_holders(tree, classes, named):
    """Names of a file that hold a section: called as its key is, annotated with its class, or assigned it."""
    holders = {key: set(sections) for key, sections in named.items()}
    for name, annotation in list_annotations(tree):
        for kind in list_names(annotation) & classes.keys():
            holders.setdefault("config" if kind == "StageTask" else name, set()).update(classes[kind])
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Assign)):
        target, value = node.targets[0], node.value
        several = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        for left, right in zip(target.elts, value.elts, strict=True) if several else [(target, value)]:
            holders.setdefault(last_name(left), set()).update(holders.get(last_name(right), ()))
    return holders


def list_reads(tree, classes, named):
    """(class of a section, key) of every `x.key` where `x` holds the section, or is it itself."""
    holders = list_holders(tree, classes, named)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield from ((section, node.attr) for section in holders.get(last_name(node.value), ()))
        if isinstance(node, ast.ClassDef) and node.name in classes:
            own = (each for each in ast.walk(node) if isinstance(each, ast.Attribute))
            selves = [each.attr for each in own if last_name(each.value) == "self"]
            yield from ((section, key) for section in classes[node.name] for key in selves)


def test_every_key_is_read_by_someone():
    """By an attribute of something that holds its section, in code that is not the configuration's own."""
    classes, named = {name: {section} for name, section in GIVEN.items()}, {}
    for section, key in list_sections(Config):
        named.setdefault(key, set()).add(section)
        for kind in section.__mro__[:-1]:
            classes.setdefault(kind.__name__, set()).add(section)
    files = [path for package in ("ldm", "disdiff") for path in (ROOT / package).rglob("*.py")]
    files = [path for path in files if path.parent != ROOT / "disdiff" / "config"]
    reads = {read for path in files for read in list_reads(ast.parse(path.read_text()), classes, named)}
    keys = {(section, item.name) for section, _ in list_sections(Config) for item in fields(section)}
    assert len(keys) > 100
    assert not {f"{section.__name__}.{key}" for section, key in keys - reads}


def test_the_printed_configuration_is_complete():
    tree = yaml.safe_load(to_yaml(load_config([SHAPES3D])))
    assert tree == asdict(load_config([SHAPES3D]))

    def paths(node, prefix=""):
        return [
            p
            for k, v in node.items()
            for p in [prefix + k, *(paths(v, f"{prefix}{k}.") if isinstance(v, dict) else [])]
        ]

    assert paths(tree) == list(list_kinds(Config))


TEXTS = [
    *("2024_06_01", "007", "12:30:45", "on", "1e3", "0x1F", "1_000", "yes", ".inf", "2024-06-01", "1.0"),
    *(
        "/data/my photos #1",
        "a: b",
        "key=value",
        "[1,2]",
        "{a: 1}",
        "*x",
        "&x",
        "!y",
        "- z",
        "Fotos ä ü 照片",
    ),
    *(" padded ", "it's", 'say "no"', "'", "% x", "@here", "a\\b", "true", "null and void", "\t"),
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("key", ["run.name", "data.root"])
def test_a_text_is_literal_on_the_command_line_and_survives_being_saved(key, text, write):
    config = load_config([SHAPES3D], [f"{key}={text}"])
    assert select(config, key) == text
    assert merge([read_yaml(write("saved.yaml", to_yaml(config)))]) == config


@pytest.mark.parametrize("text", [*TEXTS[:11], "/data/photos#1", "照片", "a=b"])
def test_a_text_is_literal_in_a_file(text, write):
    """Unquoted, as a block and in braces; what is quoted loses its quotes alone."""
    for yaml_text in (f"run:\n  name: {text}\n", f"run: {{name: {text} }}", f'run: {{name: "{text}"}}'):
        assert load_config([SHAPES3D, write("own.yaml", yaml_text)]).run.name == text


def test_values_that_are_no_texts_keep_the_rules_of_yaml(write):
    path = write("own.yaml", "seed: 0x10\nautoencoder: {train: {learning_rate: 1e-3, images: 1_000}}")
    config = load_config([SHAPES3D, path], ["stages.pretrained=off", "data.num_train=010"])
    assert (config.seed, config.stages.pretrained, config.data.num_train) == (16, False, 8)
    assert (config.autoencoder.train.learning_rate, config.autoencoder.train.images) == (1e-3, 1000)


@pytest.mark.parametrize("text", ["", "~", "null", "Null"])
def test_nothing_is_none_for_a_text_that_may_be_absent(text, write):
    over = write("over.yaml", "data: {crop: pad}")
    assert load_config([SHAPES3D, over], [f"data.crop={text}"]).data.crop is None
    assert load_config([SHAPES3D, over, write("own.yaml", f"data:\n  crop: {text}\n")]).data.crop is None


def test_nothing_is_refused_for_a_text_that_must_be_there(write):
    with pytest.raises(UserError, match="run.root has a value of the wrong type"):
        load_config([SHAPES3D], ["run.root="])
    with pytest.raises(UserError, match="run.root has a value of the wrong type"):
        load_config([SHAPES3D, write("own.yaml", "run:\n  root:\n")])


@pytest.mark.parametrize(
    ("given", "text"),
    [('"007"', "007"), ("'on'", "on"), ('"null"', "null"), ('"a" # b', '"a" # b'), ('"a', '"a'), ('"', '"')],
)
def test_quotes_around_all_of_a_text_are_taken_off(given, text):
    assert load_config([SHAPES3D], [f"run.name={given}"]).run.name == text


def test_a_list_in_a_file_is_no_text(write):
    with pytest.raises(UserError, match="run.name.*wrong type"):
        load_config([SHAPES3D, write("own.yaml", "run: {name: [1, 2]}")])


def test_texts_within_a_section_of_the_command_line_and_behind_an_anchor_are_literal(write):
    assert load_config([SHAPES3D], ["run={name: 007, root: 1_0}"]).run == RunConfig("1_0", "007")
    path = write("own.yaml", "run: {<<: {name: 0x1F}, root: &r 1e3}\ndata: {root: *r}")
    config = load_config([path, SHAPES3D])
    assert (config.run.name, config.run.root, config.data.root) == ("0x1F", "1e3", "1e3")
    assert load_config([write("based.yaml", {"bases": ["shapes3d"]})]).data.name == "shapes3d"


def test_interpolations(monkeypatch, write):
    monkeypatch.setenv("PHOTOS", "/data/2024_06_01 #1")
    monkeypatch.setenv("SEED", "7")
    config = load_config(
        [SHAPES3D], ["data.root=${oc.env:PHOTOS}", "seed=${oc.env:SEED}", "run.name=a-${seed}"]
    )
    assert (config.data.root, config.seed, config.run.name) == ("/data/2024_06_01 #1", 7, "a-7")
    kept = load_config([SHAPES3D], [r"run.name=\${x}"])
    assert kept.run.name == "${x}" and merge([read_yaml(write("saved.yaml", to_yaml(kept)))]) == kept


@pytest.mark.parametrize("key", ["data.root", "seed", "preset", "system", "weights.vgg16"])
def test_a_variable_that_is_not_set_is_named_with_its_key(key, monkeypatch, write):
    monkeypatch.delenv("ABSENT", raising=False)
    section, _, name = key.rpartition(".")
    in_file = write(
        "own.yaml", {section: {name: "${oc.env:ABSENT}"}} if section else {key: "${oc.env:ABSENT}"}
    )
    for files, overrides in (([SHAPES3D], [f"{key}=${{oc.env:ABSENT}}"]), ([SHAPES3D, in_file], [])):
        with pytest.raises(UserError, match=f"^{key} cannot be resolved: .*'ABSENT' not found; ") as failure:
            load_config(files, overrides)
        assert "\n" not in str(failure.value)


@pytest.mark.parametrize("override", ["run.name=${", "run.name=${nowhere}", "run.name=${run}"])
def test_an_interpolation_that_leads_nowhere_is_one_sentence(override):
    with pytest.raises(UserError, match="run.name") as failure:
        load_config([SHAPES3D], [override])
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("key", PATHS)
def test_home_is_expanded_in_every_path(key, monkeypatch, tmp_path, write):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert select(load_config([SHAPES3D], [f"{key}=~/x y"]), key) == f"{tmp_path}/x y"
    assert select(load_config([SHAPES3D], [f"{key}=~nobody-here/x"]), key) == "~nobody-here/x"
    write("own.yaml", {"seed": 5})
    assert load_config(["~/own.yaml"]).seed == 5
