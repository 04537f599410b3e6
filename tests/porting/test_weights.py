"""Weight files: round trips, and one clear line for every wrong file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from framer_jax.porting.files import atomic_write, sha256_of
from framer_jax.porting.weights import load_weights, save_weights
from framer_jax.trees import check_same_structure, flatten_names, nest_names

PARAMS = {
    "denoiser": {
        "conv": {"kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "bias": jnp.ones(4)},
        "scale": np.float32(2.5),
        "transposed": np.arange(6, dtype=np.float16).reshape(2, 3).T,
    },
    "framer_heads": {},
}


def equal_trees(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.map(lambda x: (x.shape, str(x.dtype)), a) == jax.tree.map(lambda x: (x.shape, str(x.dtype)), b)


def test_round_trip_keeps_everything(tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    metadata = {"config": {"width": 64, "name": "größe"}, "seed": 3, "scores": [1.5, None]}
    save_weights(path, PARAMS, metadata)
    params, read = load_weights(path)
    equal_trees(params, PARAMS)
    assert read == metadata
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]
    first = sha256_of(path)
    save_weights(path, PARAMS, metadata)  # replaces, and writes the same bytes
    assert sha256_of(path) == first


names = st.text(st.characters(blacklist_characters="/", blacklist_categories=["Cs"]), min_size=1, max_size=4)


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(names, st.recursive(st.integers(), lambda inner: st.dictionaries(names, inner, max_size=3))))
def test_flatten_and_nest_are_inverse(tree):
    assert nest_names(*flatten_names(tree)) == tree


@pytest.mark.parametrize(
    ("params", "metadata", "message"),
    [
        ({"a/b": np.ones(1)}, {}, "without '/'"),
        ({"a": {3: np.ones(1)}}, {}, "without '/'"),
        ({"a": [1.0]}, {}, "'a' is a list"),
        ({"a": jnp.ones(1, jnp.bfloat16)}, {}, "bfloat16"),
        ({"a": {}}, {}, "no array"),
        ({"a": np.ones(1)}, {"x": np.ones(1)}, "plain JSON"),
        ({"a": np.ones(1)}, {"x": float("nan")}, "plain JSON"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, params, metadata, message):
    with pytest.raises(ValueError, match=message):
        save_weights(tmp_path / "a.safetensors", params, metadata)
    assert not list(tmp_path.iterdir())


def test_other_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\*\.safetensors"):
        save_weights(tmp_path / "a.pth", PARAMS, {})


def test_wrong_files_are_told_apart(tmp_path):
    good = tmp_path / "good.safetensors"
    save_weights(good, PARAMS, {})
    data = good.read_bytes()
    header = int.from_bytes(data[:8], "little")
    bad = tmp_path / "bad.safetensors"
    for content, message in [
        (data[:-1], "cut short"),
        (data[: 8 + header // 2], "cut short within its header"),
        (b"", "not a safetensors file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a safetensors file"),
        (b"PK\x03\x04" + bytes(100), "PyTorch pickle"),
        ((5).to_bytes(8, "little") + b"{nope" + bytes(9), "header cannot be read"),
        (data + b"more", "damaged"),
    ]:
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=message) as caught:
            load_weights(bad)
        assert str(bad) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="no such weight file"):
        load_weights(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="folder"):
        load_weights(tmp_path)


def test_foreign_safetensors_say_what_they_are(tmp_path):
    path = tmp_path / "unet.safetensors"
    save_file({"conv_in.weight": np.ones((2, 3), np.float32)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"another program \(1 tensors such as 'conv_in.weight'\)"):
        load_weights(path)
    save_file({"a": np.ones(1, np.float32), "a/b": np.ones(1, np.float32)}, path, metadata={"framer_jax": "{}"})
    with pytest.raises(ValueError, match="array and a group"):
        load_weights(path)
    save_file({"a": np.ones(1, np.float32)}, path, metadata={"framer_jax": "{"})
    with pytest.raises(ValueError, match="not a JSON object"):
        load_weights(path)


def test_structure_errors_list_names():
    expected = {"a": {"k": jax.ShapeDtypeStruct((2, 3), jnp.float32), "b": np.ones(3)}, "heads": {}}
    check_same_structure({"a": {"k": np.ones((2, 3)), "b": np.zeros(3)}, "heads": {}}, expected)
    with pytest.raises(ValueError, match="does not fit") as caught:
        check_same_structure({"a": {"k": np.ones((3, 2)), "c": np.zeros(3)}, "heads": {}}, expected, "x.safetensors")
    text = str(caught.value)
    assert text.startswith("x.safetensors")
    assert "missing (1): a/b" in text
    assert "unexpected (1): a/c" in text
    assert "a/k (3, 2) instead of (2, 3)" in text
    with pytest.raises(ValueError, match=r"missing \(1\): heads"):
        check_same_structure({"a": {"k": np.ones((2, 3)), "b": np.zeros(3)}}, expected)
    single, double = ({"a": np.ones(3, dtype)} for dtype in (np.float32, np.float64))
    check_same_structure(single, double)
    with pytest.raises(ValueError, match=r"of another shape or dtype \(1\): a float32\[3\] instead of float64\[3\]"):
        check_same_structure(single, double, dtypes=True)
    many = {f"n{i:02}": np.ones(1) for i in range(20)}
    with pytest.raises(ValueError, match=r"missing \(20\): .*n07, \.\.\."):
        check_same_structure({"x": np.ones(1)}, many)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def interrupted():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_digest_of_a_folder_sees_names_and_contents(tmp_path):
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "x").write_text("1")
    first = sha256_of(tmp_path / "d")
    (tmp_path / "d" / "e" / "x").write_text("2")
    second = sha256_of(tmp_path / "d")
    (tmp_path / "d" / "e" / "x").rename(tmp_path / "d" / "e" / "y")
    assert len({first, second, sha256_of(tmp_path / "d")}) == 3
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        sha256_of(tmp_path / "nothing")
