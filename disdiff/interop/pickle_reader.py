"""Read pickles without executing them, for weight files that contain foreign objects.

A pickle is a program for a stack machine. This module interprets the instructions without calling anything: a
name (`os.system`, `pytorch_lightning...ModelCheckpoint`) becomes an inert `Global`, and every object that the
program would create becomes an inert `Foreign` that lists its arguments. Only plain containers and tensors
are reconstructed; tensors are references to their position in the file. Nothing is imported.

The standard unpickler with a `find_class` that returns inert classes would be shorter but less safe. It still
calls these classes, lets BUILD set their attributes, does not ask `find_class` for an extension code that it
has seen before, and crashes when it hashes deeply nested tuples. This interpreter has no instruction that
calls, sets an attribute or looks up a name, so it is safe without a list of forbidden names.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

MAX_STEPS = 10_000_000  # largest number of instructions; released checkpoints have about 100,000
MAX_DIMENSIONS = 16
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Global:
    """A name in a pickle, `module.name`, which is never looked up."""

    name: str


@dataclass(eq=False, repr=False)
class Foreign:
    """Placeholder for an object that a pickle would have created, with its arguments."""

    maker: Any
    parts: list[Any] = field(default_factory=list)


class Storage(NamedTuple):
    """Numbers in a file: `read` returns `numel` numbers of type `dtype` as bytes."""

    dtype: torch.dtype
    numel: int
    read: Callable[[], bytes | bytearray | memoryview]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, which `load` reads."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def load(self) -> Tensor:
        """Read the tensor; the result is contiguous."""
        if not prod(self.shape):
            return torch.empty(self.shape, dtype=self.storage.dtype)
        flat = torch.frombuffer(bytearray(self.storage.read()), dtype=self.storage.dtype)
        return flat.as_strided(self.shape, self.stride, self.offset).contiguous()


class Refused(Exception):
    """The pickle is damaged or needs something unsupported; the text becomes part of the user's message."""


def read_pickle(file: Any, find_storage: Callable[[str, torch.dtype, int], Storage]) -> Any:
    """Interpret one pickle; afterwards `file` is positioned behind it.

    Args:
        file: a file whose `read` returns at most the available bytes, such as BytesIO or mmap.
        find_storage: function of (key, dtype, numel) that returns the storage.

    Returns:
        Containers, texts, numbers and `StoredTensor`, with `Global` and `Foreign` for everything else.

    Raises:
        Refused: the pickle is damaged, too long, or has an invalid tensor.
    """
    machine = _Machine(find_storage)
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if step >= MAX_STEPS:
                raise Refused("it has more instructions than a weight file needs")
            if opcode.name == "STOP":
                return machine.pop()
            machine.run(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise Refused(f"its pickle is damaged ({type(error).__name__}: {str(error)[:100]})") from error
    raise Refused("its pickle has no end")


class _Machine:
    """Stack machine for one pickle: stack, marks and memo."""

    def __init__(self, find_storage: Callable[[str, torch.dtype, int], Storage]) -> None:
        self.find_storage = find_storage
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memory: dict[int, Any] = {}
        self.copied = 0

    def push(self, item: Any) -> None:
        """Put an item on top of the stack."""
        self.stack.append(item)

    def pop(self) -> Any:
        """Pop the top item of the stack."""
        return self.stack.pop()

    def pop_marked(self) -> list[Any]:
        """Pop all items above the last mark, and the mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def run(self, name: str, argument: Any) -> None:
        """Execute one instruction: those on values, containers and the memo here, the others in `_create`."""
        match name:
            case "PROTO" | "FRAME":
                pass
            case _ if name in LITERALS:
                self.push(LITERALS[name]())
            case _ if name in VALUES:
                self.push(argument)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memory[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memory[len(self.memory)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self.push(self.memory[argument])
            case "MARK":
                self.marks.append(self.stack)
                self.stack = []
            case "POP" if self.stack:
                self.pop()
            case "POP" | "POP_MARK":
                self.pop_marked()
            case "DUP":
                self.push(self.stack[-1])
            case "TUPLE":
                self.push(tuple(self.pop_marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self.pop() for _ in range(int(name[-1]))]
                self.push(tuple(reversed(items)))
            case "LIST" | "FROZENSET":  # a list, because items of sets need not be hashable here
                self.push(self.pop_marked())
            case "DICT":
                items = self.pop_marked()
                self.push({})
                self._set_items(items)
            case "APPEND":
                self._extend([self.pop()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self.pop_marked())
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self.pop_marked())
            case _:
                self._create(name, argument)

    def _create(self, name: str, argument: Any) -> None:
        """Execute an instruction that looks up a name, or creates an object: push a placeholder."""
        match name:
            case "GLOBAL":
                self.push(Global(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                member, module = self.pop(), self.pop()
                known = isinstance(member, str) and isinstance(module, str)
                self.push(Global(f"{module}.{member}") if known else Foreign("name", [module, member]))
            case "REDUCE" | "NEWOBJ":
                arguments, maker = self.pop(), self.pop()
                self.push(self._call(maker, arguments))
            case "NEWOBJ_EX":
                words, arguments, maker = self.pop(), self.pop(), self.pop()
                self.push(Foreign(maker, [arguments, words]))
            case "INST":
                self.push(Foreign(Global(argument.replace(" ", ".", 1)), self.pop_marked()))
            case "OBJ":
                maker, *items = self.pop_marked()
                self.push(Foreign(maker, items))
            case "BUILD":  # the state of an object, which is never applied
                state, target = self.pop(), self.stack[-1]
                if isinstance(target, Foreign):
                    target.parts.append(state)  # attributes of containers and tensors are not needed
            case "PERSID":  # something outside the pickle that is not a storage
                self.push(Foreign("persistent", [argument]))
            case "BINPERSID":
                self.push(self._find(self.pop()))
            case _:
                raise Refused(f"it has the instruction {name}, which weight files do not need")

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Foreign):
            target.parts.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Foreign):
            target.parts.extend(items)
            return
        if not isinstance(target, dict):
            raise Refused("its pickle sets items of something that has none")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # hashing a deeply nested tuple could overflow the C stack
            plain = isinstance(key, str | bytes | int | float | Global | None)
            target[key if plain else Foreign("key", [key])] = value

    def _call(self, maker: Any, arguments: Any) -> Any:
        """Placeholder or value for the result of a call."""
        name = maker.name if isinstance(maker, Global) else ""
        if name in ("collections.OrderedDict", "collections.defaultdict"):
            return self._make_dict(arguments)
        if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            return _make_tensor(*arguments[:4])
        if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
            return arguments[0]
        return Foreign(maker, [arguments])

    def _make_dict(self, arguments: Any) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        if isinstance(arguments, tuple) and len(arguments) == 1 and isinstance(arguments[0], list):
            self.copied += len(arguments[0])
            if self.copied > MAX_STEPS:
                raise Refused("it copies more than a weight file needs")
            self.stack.append(made)
            for key, value in arguments[0]:
                self._set_items([key, value])
            self.pop()
        return made

    def _find(self, identity: Any) -> Any:
        """The storage of a persistent id; a placeholder if the id is not that of a storage."""
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] not in ("storage", b"storage"):
            return Foreign("persistent", [identity])
        _, kind, key, _, numel = identity[:5]
        dtype = STORAGES.get(kind.name.rpartition(".")[2]) if isinstance(kind, Global) else None
        if len(identity) > 5 and identity[5] is not None:
            raise Refused("it has views of storages, as files from before PyTorch 0.4")
        plain = isinstance(key, str | int)  # the text of nested tuples could be extremely long
        if dtype is None or not plain or type(numel) is not int or numel < 0:
            raise Refused("it stores numbers in an unknown way")
        return self.find_storage(str(key), dtype, numel)


def _make_tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    numbers = [offset, *shape, *stride]
    whole = all(type(n) is int and 0 <= n < 2**62 for n in numbers) and len(shape) <= MAX_DIMENSIONS
    if not isinstance(storage, Storage) or not whole:
        raise Refused("it has a tensor of impossible size")
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if prod(shape) and (last >= storage.numel or prod(shape) > storage.numel):
        raise Refused(f"it has a tensor of shape {tuple(shape)[:6]} in {storage.numel} numbers")
    return StoredTensor(storage, offset, tuple(shape), tuple(stride))


LITERALS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
}
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
