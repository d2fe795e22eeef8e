"""Hostile values: broken text, deep and huge documents, names of code, and changed JSON."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class BrokenText:
    """A text that is no UTF-8."""

    data: bytes

    def __str__(self) -> str:
        return self.data.decode("utf-8", "backslashreplace")


def deep(opening: bytes, middle: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + middle + closing * depth


NAMED = (
    b'{"__class__": "subprocess.Popen", "__module__": "subprocess", "args": ["true"]}',
    b'{"py/object": "os.system", "py/reduce": [{"py/type": "os.system"}, {"py/tuple": ["true"]}]}',
    b'{"$asyncflow": "os.system", "$type": "colorsys", "$args": ["true"]}',
    b'{"$import": "colorsys"}',
    b'{"$eval": "__import__(\'colorsys\')"}',
    b'{"!!python/object/apply:os.system": ["true"]}',
    b'"colorsys:main"',
    b"\"cos\\nsystem\\n(S'true'\\ntR.\"",
)
"""Names of code, in the ways in which those decoders take them that execute the stored data."""


TAGS = tuple(
    b'{"$%b": %b}' % (tag, value)
    for tag in (
        b"bytes decimal datetime date time timedelta uuid purepath path float int tuple set frozenset dict unknown".split()
    )
    for value in (
        *(
            b"null",
            b"5",
            b"-1e400",
            b'"text"',
            b"[]",
            b"[1]",
            b"[[1]]",
            b"[1, 2, 3, 4, 5, 6, 7, 8]",
            b"{}",
            b'{"$set": [[]]}',
        ),
        *(
            b"[1e308]",
            b"[[[], 1]]",
            b'"9" ',
            b'"%b"' % (b"9" * 5000),
            b'"sNaN"',
            b'"1e999999999999999999999"',
            b'"\\u0000"',
        ),
        *(
            b'"0001-01-01T00:00:00+23:59"',
            b"[999999999999, 0, 0]",
            b"[[1, 2], [1, 3]]",
            b'[[{"$dict": []}, 1]]',
            b"true",
        ),
    )
)


FRAGMENTS = (
    *(
        b"null",
        b"true",
        b"-0",
        b"0.0",
        b"1e400",
        b"-1E+400",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"nan",
        b"01",
        b".5",
        b"1.",
    ),
    *(
        b'""',
        b'"x"',
        b'"\\u0000"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"' + b"x" * 100_000 + b'"',
    ),
    *(b"9" * 25, b"-" + b"9" * 4_301, b"9" * 100_000, b"0." + b"1" * 100_000, b'"' + b"9" * 4_301 + b'"'),
    *(b"[]", b"{}", b"[[]]", b'[""]', b"[1, 2, 3]", b'{"a": 1, "a": 2}', b'{"": null}', b'{"a": {"a": {}}}'),
    *(deep(b"[", b"1", b"]", n) for n in (60, 110, 190, 250, 100_000)),
    *(deep(b'{"a":', b"1", b"}", n) for n in (60, 110, 190, 250, 100_000)),
    *(deep(b'{"$tuple": [', b"1", b"]}", n) for n in (40, 60, 98, 150)),
    *(deep(b'{"$dict": [[1, ', b"1", b"]]}", n) for n in (30, 48, 65, 150)),
    *NAMED,
)


DOCUMENTS = (
    *(
        b"",
        b" ",
        b"\x00",
        b"{",
        b"]",
        b"{}",
        b"[]",
        b"null",
        b"5",
        b'"x"',
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b"{'a': 1}",
        b'{"a": 1,}',
    ),
    *(
        b"\x80\x04\x95",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"x" * 1_000_000,
    ),
    *(b"/* */ {}", b"{}\x00", b"[" * 100_000, b'{"a":' * 100_000, deep(b"[", b"", b"]", 100_000)),
)


MARK = "\x01here\x01"


def paths_in(tree: Any) -> Iterator[tuple[Any, ...]]:
    """Every place of a tree, its keys too (as `(..., None, key)`)."""
    yield ()
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in items:
        if isinstance(tree, dict):
            yield (None, key)
        yield from ((key, *path) for path in paths_in(inner))


def without(tree: Any, path: tuple[Any, ...]) -> Any:
    """The tree without the part at that place."""
    copy = tree.copy()
    if len(path) == 1 or path[-2:-1] == (None,) == path[:1]:
        del copy[path[-1]]
    else:
        copy[path[0]] = without(tree[path[0]], path[1:])
    return copy


def put_at(tree: Any, path: tuple[Any, ...]) -> Any:
    """The tree with a mark there: in the place of a value, or, for a key, next to it under the same key, or another."""
    if not path:
        return MARK
    if path[0] is None:
        return {(MARK if key == path[1] else key): value for key, value in tree.items()}
    copy = tree.copy()
    copy[path[0]] = put_at(tree[path[0]], path[1:])
    return copy


@st.composite
def changed_json(draw: Any, valid: bytes) -> bytes:
    """A valid document in which one value, or key, is replaced by something hostile, said twice, or missing."""
    tree = json.loads(valid)
    path = draw(st.sampled_from(list(paths_in(tree))))
    if path and draw(st.integers(0, 5)) == 0:
        return json.dumps(without(tree, path)).encode()
    fragment = draw(st.one_of(st.sampled_from(FRAGMENTS), st.sampled_from(TAGS), small_json))
    mark = json.dumps(MARK).encode()
    text = json.dumps(put_at(tree, path)).encode()
    if len(path) > 1 and path[-2] is None:
        fragment = json.dumps(draw(st.text(max_size=5))).encode()
    elif draw(st.integers(0, 9)) == 0 and path and isinstance(path[-1], str):
        key = json.dumps(path[-1]).encode()
        fragment = b"%b, %b: %b" % (fragment, key, draw(st.sampled_from(FRAGMENTS)))
    return text.replace(mark, fragment)


small_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
).map(lambda value: json.dumps(value).encode())


scalars = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), 0.0, -0.0, 1.5, float("inf"), float("-inf"), float("nan"), 1e308]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["", "\x00", "a\x00b", "running", "finished", "failed", "cancelled", "method", "first:1", "gone:1", "\u202e"]
    ),
    st.sampled_from(["x" * 100_000, "first:" + "9" * 5_000, ":", "a:b:c", "right:1", "os.system", "9" * 30]),
    st.binary(max_size=8),
    st.sampled_from([b"running", b"finished", b"first:1", b"\xff", b"\x00" * 16]),
    st.binary(min_size=1, max_size=6).map(BrokenText),
)


JSON_COLUMNS = ("state", "progress", "changes", "result", "inputs", "outcome")
SCALAR_COLUMNS = (
    "seq",
    "pass_number",
    "format",
    "version",
    "kind",
    "status",
    "at",
    "method",
    "base",
    "epoch",
    "previous",
    "digest",
)
HEAD_COLUMNS = (
    "run_id",
    "flow",
    "identity",
    "format",
    "version",
    "status",
    "pass_number",
    "head",
    "head_digest",
    "base",
    "owner",
    "epoch",
    "created_at",
    "entry_digest",
    "parent",
    "parent_digest",
)


SIGNAL_COLUMNS = ("run", "key", "name", "payload", "sender", "at", "taken", "problem", "content", "digest")


def documents(valid: bytes | None) -> st.SearchStrategy[Any]:
    hostile = st.one_of(st.sampled_from(DOCUMENTS), st.sampled_from(FRAGMENTS), scalars)
    return (
        hostile if valid is None else st.one_of(changed_json(valid), changed_json(valid), changed_json(valid), hostile)
    )
