"""Labels and groups: the only free text in an export."""

import pytest

from circuits import Graph, InputError, Naming
from circuits.results.naming import clean, read_naming

GRAPH = Graph(2, 2, 2, (True, True))


def test_labels_are_put_on_one_line():
    assert clean("name\n  mover\t(late)", "it") == "name mover (late)"


@pytest.mark.parametrize("text", ["", "  ", 3, None, "a\x00b", "a\x1bb", "\u202eabc", "\ud800", "x" * 201])
def test_what_no_format_can_hold_is_refused(text):
    with pytest.raises(InputError, match=r"the label"):
        clean(text, "the label")


def test_an_unknown_node_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"no node 'a9\.h1'.*nearest: .*a"):
        Naming({"a9.h1": "x"}).checked(GRAPH)
    with pytest.raises(InputError, match="group 'late': there is no node"):
        Naming(groups={"late": ("m7",)}).checked(GRAPH)


def test_groups_do_not_overlap_and_are_not_empty():
    with pytest.raises(InputError, match="m0 is in two groups, 'a' and 'b'"):
        Naming(groups={"a": ("m0",), "b": ("m0",)}).checked(GRAPH)
    with pytest.raises(InputError, match="has no nodes"):
        Naming(groups={"a": ()}).checked(GRAPH)
    with pytest.raises(InputError, match="named twice"):
        Naming(groups={"a b": ("m0",), "a\nb": ("m1",)}).checked(GRAPH)


def test_toml_and_json_say_the_same(tmp_path):
    (tmp_path / "n.toml").write_text('[labels]\n"a1.h0" = "name mover"\n[groups]\n"MLPs" = ["m0", "m1"]\n')
    (tmp_path / "n.json").write_text('{"labels": {"a1.h0": "name mover"}, "groups": {"MLPs": ["m0", "m1"]}}')
    expected = Naming({"a1.h0": "name mover"}, {"MLPs": ("m0", "m1")})
    assert read_naming(tmp_path / "n.toml") == read_naming(tmp_path / "n.json") == expected
    assert expected.role("m1") == "MLPs"
    assert expected.role("input") is None


@pytest.mark.parametrize(
    "text",
    ["", "a = ", '{"labels": 1}', '"a1.h0" = "mover"', "labels = 3", '[labels]\n"m0" = 3', '[groups]\n"x" = "m0"'],
)
def test_other_files_are_refused_by_name(text, tmp_path):
    path = tmp_path / "n.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"n\.toml"):
        read_naming(path)
    with pytest.raises(InputError, match="cannot read"):
        read_naming(tmp_path / "absent.toml")
