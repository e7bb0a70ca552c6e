from __future__ import annotations

import pytest

from edge_fusion.errors import InputError
from edge_fusion.runtime.references import parse_reference, parse_variants


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # label, backend, path, variant
        ("fp32", ("fp32", "", "", "fp32")),
        ("trt:fp16", ("trt:fp16", "trt", "", "fp16")),
        ("ort:int8", ("ort:int8", "ort", "", "int8")),
        ("other/bundle:int8", ("bundle:int8", "", "other/bundle", "int8")),
        ("b.tar:int8", ("b:int8", "", "b.tar", "int8")),
        ("bundle:int8", ("bundle:int8", "", "bundle", "int8")),
        ("trt:other/bundle:int8", ("trt:bundle:int8", "trt", "other/bundle", "int8")),
        ("./ort:int8", ("ort:int8", "", "./ort", "int8")),
        ("file.onnx", ("file", "", "file.onnx", "")),
        ("ort:dir/file.ONNX", ("ort:file", "ort", "dir/file.ONNX", "")),
        ("mine=file.onnx", ("mine", "", "file.onnx", "")),
        ("new=trt:./b:fp16", ("new", "trt", "./b", "fp16")),
        ("again=fp32", ("again", "", "", "fp32")),
        ("./a=b/file.onnx", ("file", "", "./a=b/file.onnx", "")),
    ],
)
def test_every_form_is_read(text, expected):
    ref = parse_reference(text)
    assert (ref.label, ref.backend, ref.path, ref.variant) == expected
    assert ref.text == text
    assert ref.is_file == (not ref.variant)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("some/bundle", r"names a place, but no variant of it.*some/bundle:int8"),
        ("b.tar", r"no variant of it.*b\.tar:int8"),
        ("=fp32", "variant '=fp32': expected"),
        ("mine=", "variant 'mine=': expected"),
        ("trt:", "variant 'trt:': expected"),
        ("bundle:", "for example fp32, trt:fp16"),
        (":int8", "variant ':int8'"),
    ],
)
def test_what_is_malformed_is_refused_with_the_forms(text, message):
    with pytest.raises(InputError, match=message):
        parse_reference(text)


def test_a_folder_named_like_a_backend_is_ambiguous(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_reference("ort:int8").backend == "ort"
    (tmp_path / "ort").mkdir()
    with pytest.raises(InputError, match=r"two ways.*write \./ort:int8.*--backend ort"):
        parse_reference("ort:int8")
    assert parse_reference("./ort:int8").path == "./ort"
    assert parse_reference("ort:./b:int8").backend == "ort"


def test_a_path_with_an_equals_sign_is_ambiguous(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_reference("a=b.onnx").label == "a"
    (tmp_path / "a=b.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"two ways.*write \./a=b\.onnx"):
        parse_reference("a=b.onnx")
    assert parse_reference("./a=b.onnx").path == "./a=b.onnx"


def test_two_of_one_label_are_told_how_to_differ():
    with pytest.raises(InputError, match=r"'x/b:int8' and 'y/b:int8' .* 'b:int8'; .*other=y/b"):
        parse_variants(["x/b:int8", "y/b:int8"])
    assert [one.label for one in parse_variants(["x/b:int8", "new=y/b:int8"])] == ["b:int8", "new"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("int8",), "two or more different ones.*got int8"),
        ((), "got none"),
        (("fp32", ""), "got fp32, an empty name"),
        (("fp32", "fp32"), "the same one twice needs a label: fp32,again=fp32"),
    ],
)
def test_a_list_holds_two_at_least(texts, message):
    with pytest.raises(InputError, match=message):
        parse_variants(texts)
