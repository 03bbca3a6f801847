"""Foreign checkpoints are read without running or importing anything, and damaged ones are refused."""

import builtins
import copyreg
import io
import json
import os
import pickle
import re
import struct
import sys
import zipfile
from collections import OrderedDict

import pytest
import safetensors.torch
import torch

from disdiff.interop.files import read_weights_file, sort_content
from disdiff.interop.pickle_reader import Foreign, Global, Refused, read_pickle
from ldm.errors import UserError

ALARM = []  # what a pickle that runs code would have written


class Reduce:
    """Pickled as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.parts = (function, arguments)

    def __reduce__(self):
        return self.parts


def interpret(content):
    def refuse(key, dtype, numel):
        raise Refused("no storages here")

    return read_pickle(io.BytesIO(content), refuse)


@pytest.fixture
def state():
    shared = torch.arange(12.0)
    return OrderedDict(
        whole=torch.randn(3, 4),
        scalar=torch.tensor(0.8),
        count=torch.tensor(7),
        half=torch.randn(2, 3).half(),
        brain=torch.randn(3).bfloat16(),
        flag=torch.tensor([True, False]),
        empty=torch.zeros(0, 3),
        view=shared.view(3, 4)[1:, 1:3],
        turned=shared.view(3, 4).T,
        parameter=torch.nn.Parameter(torch.randn(2)),
    )


@pytest.mark.parametrize("legacy", [False, True])
def test_every_tensor_comes_back_from_a_lightning_file(save_checkpoint, state, legacy):
    file = read_weights_file(save_checkpoint("a.ckpt", state, legacy))
    assert "lightning_of_old" not in sys.modules
    assert file.numbers == {"epoch": 64, "global_step": 240_000}
    assert list(file.tensors) == list(state)
    for name, tensor in state.items():
        got = file.tensors[name]
        assert got.shape == tuple(tensor.shape) == tuple(got.load().shape)
        assert torch.equal(got.load(), tensor.detach()) and got.load().dtype == tensor.dtype


@pytest.mark.parametrize("legacy", [False, True])
def test_bare_states_and_safetensors(tmp_path, state, legacy):
    torch.save(state, tmp_path / "bare.pt", _use_new_zipfile_serialization=not legacy)
    whole = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
    }
    safetensors.torch.save_file(whole, tmp_path / "s.safetensors")
    for name in ("bare.pt", "s.safetensors"):
        tensors = read_weights_file(tmp_path / name).tensors
        assert all(torch.equal(tensors[key].load(), state[key]) for key in state)


CALLS = {
    "os.system": Reduce(os.system, "touch evil"),
    "eval": Reduce(eval, "ALARM.append(1)"),
    "exec in a list": [1, [Reduce(exec, "open('evil', 'w')")]],
    "nested": Reduce(getattr, Reduce(__import__, "os"), "getcwd"),
    "a key": {Reduce(os.getcwd): 1},
    "in a tuple of a key": {(1, Reduce(os.getcwd)): 1},
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("name", CALLS)
def test_no_call_is_made(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps(CALLS[name], protocol)
    with monkeypatch.context() as patch:
        for function in ("system", "getcwd"):
            patch.setattr(os, function, lambda *arguments: ALARM.append(arguments))
        patch.setattr("builtins.__import__", refuse_import)
        tree = interpret(content)
    assert not ALARM and not (tmp_path / "evil").exists()
    if name == "os.system":
        assert isinstance(tree, Foreign) and tree.maker.name.endswith(".system")


def refuse_import(name, *arguments, real=builtins.__import__, **words):
    """Stands in for `__import__`; what decodes texts may be imported, what the pickles name may not."""
    assert name not in ("os", "posix", "nt", "builtins", "__builtin__"), f"imported {name}"
    return real(name, *arguments, **words)


OPCODES = {  # name: program, and what it leaves
    "REDUCE": (b"cos\nsystem\n(S'x'\ntR.", Foreign),
    "INST": (b"(S'x'\nios\nsystem\n.", Foreign),
    "OBJ": (b"(cos\nsystem\nS'x'\no.", Foreign),
    "NEWOBJ": (b"\x80\x02cos\nsystem\n)\x81.", Foreign),
    "NEWOBJ_EX": (b"\x80\x04cos\nsystem\n)}\x92.", Foreign),
    "STACK_GLOBAL": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", Global),
    "STACK_GLOBAL of objects": (b"\x80\x04}\x8c\x01x\x93.", Foreign),
    "BUILD": (b"cos\nsystem\n)R}S'__setstate__'\ncos\nsystem\nsb.", Foreign),
    "BUILD of a dict": (b"}}S'__class__'\ncos\nsystem\nsb.", dict),
    "SETITEM of an object": (b"cos\nenviron\n)RS'PATH'\nS''\ns.", Foreign),
    "APPEND to an object": (b"cos\nsystem\n)RS'x'\na.", Foreign),
    "PERSID": (b"Pos.system\n.", Foreign),
    "BINPERSID": (b"cos\nsystem\n)RQ.", Foreign),
    "BINPERSID of a module": (b"(S'module'\ncos\nsystem\nS'f'\nS'code'\nNtQ.", Foreign),
    "numpy's own": (b"cnumpy.core.multiarray\n_reconstruct\n)R.", Foreign),
    "a loader within": (b"ctorch\nload\nS'x'\n\x85R.", Foreign),
}


@pytest.mark.parametrize("name", OPCODES)
def test_instructions_that_would_act_leave_inert_things(name):
    program, kind = OPCODES[name]
    before = dict(os.environ)
    assert type(interpret(program)) is kind
    assert dict(os.environ) == before


def test_an_extension_code_is_not_looked_up():
    copyreg.add_extension("os", "getcwd", 7)
    copyreg._extension_cache[7] = os.getcwd  # as any earlier pickle may leave it: no `find_class` is asked
    try:
        for program in (b"\x82\x07)R.", b"\x83\x07\x00)R.", b"\x84\x07\x00\x00\x00)R."):
            with pytest.raises(Refused, match="EXT"):
                interpret(program)
    finally:
        copyreg.remove_extension("os", "getcwd", 7)


ATTACKS = {  # name: program, whose result is inert
    "eval by GLOBAL": b"cbuiltins\neval\n(S'ALARM.append(1)'\ntR.",
    "exec by STACK_GLOBAL": b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93\x8c\x0fALARM.append(1)\x85R.",
    "a dotted name": b"\x80\x04\x8c\x02os\x8c\x0bpath.system\x93(S'touch evil'\ntR.",
    "a call of what a call gave": b"cbuiltins\ngetattr\n(cos\nenviron\nS'clear'\ntR)R.",
    "BUILD with slots": b"cx\ny\n)R(N}S'__class__'\ncos\n_Environ\nstb.",
    "BUILD of a name": b"cos\nenviron\n(N}S'clear'\nNstb.",
    "BUILD of allowed dictionaries": b"ccollections\nOrderedDict\n)R}S'__reduce__'\ncos\nsystem\nsb.",
    "a class within a class": b"cbuiltins\ntype\n(S'X'\n(cbuiltins\nobject\nt}tR)R.",
    "a tensor's hooks": b"ctorch._utils\n_rebuild_parameter\n(cos\nsystem\nI01\nNtR.",
    "a loader of pickles": b"c_pickle\nloads\n(cposix\nsystem\ntR.",
    "a persistent identity that calls": b"(S'storage'\ncos\nsystem\n(S'x'\ntRS'0'\ntQ.",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_leave_inert_things(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ), set(sys.modules), vars(Foreign).copy(), vars(Global).copy()
    interpret(ATTACKS[name])
    assert before == (dict(os.environ), set(sys.modules), vars(Foreign).copy(), vars(Global).copy())
    assert not ALARM and not list(tmp_path.iterdir())


LAUGHS = b"(I1\nI2\nt" + b"2" * 1 + b"\x86" + b"2\x86" * 60  # a tuple of itself twice, 61 times


@pytest.mark.parametrize(
    "program",
    [
        b"(S'storage'\nctorch\nFloatStorage\n" + LAUGHS + b"S'cpu'\nI1\ntQ.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(N" + LAUGHS + b"(I2\nt(I1\nttR.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(NI0\n" + LAUGHS + LAUGHS + b"tR.",
        b"N\x8d" + struct.pack("<Q", 2**40) + b"abc.",
        b"\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.",
    ],
)
def test_a_billion_laughs_are_refused_at_once(program):
    with pytest.raises(Refused):
        interpret(program)


def test_places_of_memory_cost_nothing():
    assert interpret(b"Nr" + struct.pack("<I", 2**32 - 1) + b".") is None


def test_dictionaries_that_lie_in_many_places_are_read_once(tmp_path):
    def pickled(levels):
        inner = b"}S'a'\nN" + b"s"
        for _ in range(levels):
            inner = inner + b"q\x00" + b"0}S'l'\nh\x00sS'r'\nh\x00s"
        return inner + b"."

    tree = interpret(pickled(200))
    with pytest.raises(Refused, match="no tensors by name"):
        sort_content(tmp_path, tree)
    endless = {}
    endless["itself"] = endless
    with pytest.raises(Refused, match="no tensors by name"):
        sort_content(tmp_path, endless)


def test_an_archive_within_an_archive_and_one_under_a_password(tmp_path):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "outer.pt", "w") as archive:
        archive.write(tmp_path / "a.pt", "outer/data.pkl")
    with pytest.raises(UserError, match="outer.pt cannot be read as weights"):
        read_weights_file(tmp_path / "outer.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + place] |= 1
            at = content.find(mark, at + 1)
    (tmp_path / "secret.pt").write_bytes(content)
    with pytest.raises(UserError, match="secret.pt is damaged"):
        read_weights_file(tmp_path / "secret.pt")


@pytest.mark.parametrize("keys", [b"I5\n.", b"(cos\nsystem\nl.", b"}.", b"(" + LAUGHS + b"l."])
def test_a_legacy_file_whose_storages_are_none(tmp_path, keys):
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {})]
    (tmp_path / "a.pt").write_bytes(b"".join(parts) + keys)
    with pytest.raises(UserError, match="does not list its storages"):
        read_weights_file(tmp_path / "a.pt")


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
REFUSED = {
    "no end": b"}",
    "nothing": b"",
    "no pickle": b"\x00\x01\x02hello",
    "empty stack": b"0.",
    "unknown extension": b"\x82\x01.",
    "memory never written": b"h\x05.",
    "a text longer than the file": b"X\xff\xff\xff\x7fabc.",
    "8 EB of bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "items of a number": b"I1\nS'a'\nS'b'\ns.",
    "an odd dictionary": b"(S'a'\nd.",
    "an endless number": b"I" + b"9" * 6000 + b"\n.",
    "a tensor without storage": TENSOR + b"(NI0\n(I2\nt(I1\nttR.",
    "a tensor of too few parts": TENSOR + b"(NtR.",
    "a million dimensions": TENSOR + b"(NI0\n(" + b"I2\n" * 1000 + b"t(" + b"I1\n" * 1000 + b"ttR.",
    "a storage of a negative number": b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI-1\ntQ.",
    "a storage of an unknown kind": b"(S'storage'\nctorch\nOddStorage\nS'0'\nS'cpu'\nI1\ntQ.",
}


@pytest.mark.parametrize("name", REFUSED)
def test_damaged_pickles_are_refused(name):
    with pytest.raises(Refused):
        interpret(REFUSED[name])


def test_deep_nesting_and_long_programs_do_no_harm(monkeypatch):
    deep = b"(" * 100_000 + b"t" * 100_000
    assert interpret(deep + b".")
    tree = interpret(b"}" + deep + b"N" + b"s.")  # as a key, which must not be hashed
    assert isinstance(next(iter(tree)), Foreign)
    monkeypatch.setattr("disdiff.interop.pickle_reader.MAX_STEPS", 1000)
    with pytest.raises(Refused, match="more instructions"):
        interpret(b"N" * 2000 + b".")
    pairs = b"(" + b"(NNt" * 100 + b"lp0\n0" + b"ccollections\nOrderedDict\n(g0\ntR0" * 50 + b"N."
    with pytest.raises(Refused, match="copies more"):
        interpret(pairs)


def rewrite(path, change):
    """Rewrite an archive of torch.save, each record through `change(name, content)`."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            kept = change(name, content)
            if kept is not None:
                archive.writestr(name, kept)
    return path


def test_archives_that_are_wrong(tmp_path):
    def saved():
        torch.save({"a": torch.arange(1000.0)}, tmp_path / "a.pt")
        return tmp_path / "a.pt"

    def expect(path, says):
        with pytest.raises(UserError, match=says):
            for tensor in read_weights_file(path).tensors.values():
                tensor.load()

    expect(rewrite(saved(), lambda name, c: None if name.endswith("data.pkl") else c), "without data.pkl")
    expect(rewrite(saved(), lambda name, c: None if name.endswith("data/0") else c), "missing or has fewer")
    expect(rewrite(saved(), lambda name, c: c[:100] if name.endswith("data/0") else c), "fewer than 1000")
    expect(rewrite(saved(), lambda name, c: b"big" if name.endswith("byteorder") else c), "big-endian")
    path = saved()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    expect(path, "not a readable weight file")
    path.write_bytes(content.replace(struct.pack("<f", 999.0), struct.pack("<f", 998.0)))
    expect(path, "damaged")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    expect(path, "compressed, or larger")


@pytest.mark.parametrize("cut", [10, 200, -50])
def test_a_legacy_file_that_is_cut_short(tmp_path, cut):
    torch.save({"a": torch.arange(100.0)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:cut])
    with pytest.raises(UserError, match="b.pt"):
        read_weights_file(tmp_path / "b.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a readable weight file"),
        (b"<html>not found</html>", "cannot be read as weights"),
        (pickle.dumps({"a": 1}), "no known format"),
        (pickle.dumps(Reduce(os.system, "touch evil")), "no known format"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, content, says):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_weights_file(tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="missing.ckpt"):
        read_weights_file(tmp_path / "missing.ckpt")


def save_shards(folder, state, ending="safetensors", stem="model"):
    """A state in two files and their index, as hubs keep large models."""
    names, places = list(state), {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        name = f"{stem}-{i:05}-of-00002.{ending}"
        tensors = {key: state[key].clone() for key in part}
        save = safetensors.torch.save_file if ending == "safetensors" else torch.save
        save(tensors, folder / name)
        places |= dict.fromkeys(part, name)
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_a_model_in_several_files(tmp_path, ending):
    state = {f"layer.{i}": torch.randn(3, 2) for i in range(5)}
    file = read_weights_file(save_shards(tmp_path, state, ending))
    assert set(file.tensors) == set(state)
    assert all(torch.equal(file.tensors[name].load(), state[name]) for name in state)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda index: {**index, "weight_map": {"a": "../a.bin"}}, "'../a.bin', which is not a weight file"),
        (lambda index: {**index, "weight_map": {"a": "x.bin.index.json"}}, "not a weight file in its folder"),
        (lambda index: {"weight_map": {"a": ""}}, "not a weight file in its folder"),
        (lambda index: {"weight_map": [1]}, "not the index of a model"),
        (lambda index: {"weight_map": {"a": 1}}, "not the index of a model"),
        (lambda index: {"weight_map": {"a": "absent.bin"}}, "absent.bin"),
        (lambda index: {"weight_map": {**index["weight_map"], "more": "model-00001-of-00002.bin"}},
         "00001-of-00002.bin lacks the tensor more"),
        (lambda index: [], "not the index of a model"),
    ],
)  # fmt: skip
def test_an_index_that_is_wrong(tmp_path, change, says):
    path = save_shards(tmp_path, {"a": torch.zeros(2), "b": torch.zeros(2)}, "bin")
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=re.escape(says)):
        read_weights_file(path)


def test_a_checkpoint_without_tensors(save_checkpoint):
    with pytest.raises(UserError, match="no tensors by name"):
        read_weights_file(save_checkpoint("x.ckpt", {"a": 1}))
