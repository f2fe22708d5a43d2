# SPDX-License-Identifier: Apache-2.0
"""Whether the program in a TorchScript file only computes. PyTorch runs parts of it when the file is loaded."""

from __future__ import annotations

import ast
import io
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

_OPERATORS = frozenset(
    re.findall(
        r"\w+",
        """
    __and__ __not__ __or__ _convolution abs adaptive_avg_pool2d adaptive_max_pool2d add addcmul addmm amax amin
    arange avg_pool2d batch_norm bmm cat ceil chunk clamp clone constant_pad_nd contiguous conv2d cos detach
    device dim div dropout elu eq exp expand expand_as flatten floor floor_divide full full_like ge gelu
    group_norm gt hardsigmoid hardswish hardtanh instance_norm layer_norm le leaky_relu len linalg_vector_norm
    linear log lt masked_fill matmul max max_pool2d maximum mean min minimum mul ne neg new_zeros norm ones
    ones_like pad permute pixel_shuffle pow reciprocal relu repeat reshape roll round rsqrt select sigmoid silu
    sin size slice softmax softplus split split_with_sizes sqrt square squeeze stack sub sum t tanh to transpose
    type_as unbind unflatten unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_nearest2d view where zeros
    zeros_like
        """,
    )
)
"""Operators of tensors that networks compute with; a name with "_" behind it is the same in place."""

_BUILTINS = ("annotate", "bool", "float", "getattr", "int", "len", "uninitialized")
_LIBRARIES = ("torch", "ops")  # names through which a program reaches operators
_CODE = "code"
_UNPACKED = 32 * 2**20  # bytes by which the members may be longer than the file: PyTorch packs the program's text
_KINDS = (".py", ".py.debug_pkl")


class NotComputing(ValueError):
    """A program does more than compute, or hides what it does; nothing of it was executed."""


def checked_script(path: Path) -> io.BytesIO:
    """A TorchScript file whose program only computes, as an archive made anew of the members that were checked.

    Each call must be of a known operator, of a module's ``forward`` or of a conversion of numbers; loops, methods that
    run by themselves, and any other use of PyTorch's name are refused. What ``torch.jit.trace`` writes of a network
    passes. Readers may find other members in one file (a second directory of the archive), so that PyTorch is to load
    what this returns.

    Raises:
        NotComputing: when it does more, or the program cannot be read for sure; nothing of it was executed.
        zipfile.BadZipFile, OSError: when it is no such file.
    """
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as checked:
        members = archive.infolist()
        _check_members(members, path.stat().st_size)
        for member in members:
            content = archive.read(member)
            if member.filename.endswith(".py"):
                _check_source(content)
            checked.writestr(zipfile.ZipInfo(member.filename), content)
    copy.seek(0)
    return copy


def _check_members(members: Sequence[zipfile.ZipInfo], size: int) -> None:
    if len({member.filename.lower() for member in members}) < len(members):  # PyTorch finds names whatever their case
        raise NotComputing("each member of the archive must have a name of its own, got one twice")
    if (unpacked := sum(member.file_size for member in members)) > size + _UNPACKED:
        raise NotComputing(f"its members must unpack to little more than the file, got {unpacked} bytes of {size}")
    for member in members:
        name = member.filename
        parts = name.split("/")
        coded = parts[1:2] == [_CODE] and name.endswith(_KINDS)
        if not coded and (_CODE in [part.lower() for part in parts[:-1]] or name.lower().endswith(".py")):
            raise NotComputing("its program must stand in the folder code, got a member beside it")


def _check_source(source: bytes) -> None:
    try:
        tree = ast.parse(source.decode("utf-8"))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise NotComputing("its program must be readable, got what cannot be parsed") from error
    allowed: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("__"):
            raise NotComputing(f"its program must only compute, got the method {node.name}")
        if isinstance(node, (ast.While, ast.For, ast.AsyncFor, ast.comprehension)):
            raise NotComputing("its program must compute in a fixed number of steps, got a loop, which may have no end")
        if isinstance(node, ast.Call):
            allowed |= _check_call(node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in _LIBRARIES and id(node) not in allowed:
            raise NotComputing(f"its program must only compute, got another use of {node.id}")


def _check_call(call: ast.Call) -> set[int]:
    """Refuses a call of what is not known to compute; the ids of the names of libraries that it may use."""
    name = call.func
    if isinstance(name, ast.Name) and name.id in _BUILTINS:
        return set()
    if isinstance(name, ast.Attribute):
        base, operator = name.value, name.attr
        if isinstance(base, ast.Name) and base.id == "torch":
            if operator.removesuffix("_") in _OPERATORS or operator in _OPERATORS:
                return {id(base)}
        elif operator.startswith("forward") and operator.isidentifier():
            return set()
        elif ast.unparse(name) == "ops.prim.NumToTensor" and isinstance(base, ast.Attribute):
            return {id(base.value)}
    raise NotComputing(f"its program must only compute, got a call of {ast.unparse(name)[:80]}")
