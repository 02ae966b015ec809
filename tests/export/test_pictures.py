"""DOT, SVG, PDF and PNG."""

import xml.etree.ElementTree as ElementTree

import pytest

from circuits import InputError, Naming
from circuits.export import picture
from circuits.export.dot import write_dot
from circuits.export.picture import write_pdf, write_png, write_svg
from tests.exported import GRAPHS, HOSTILE, pdf_tool, scored

pygraphviz = pytest.importorskip("pygraphviz")
NODES = ("input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1")
NAMED = Naming(dict(zip(NODES, HOSTILE, strict=True)))


def test_dot_holds_every_edge_whatever_the_labels(tmp_path):
    circuit = scored(GRAPHS[0], share=0.8)
    write_dot(circuit, tmp_path / "c.dot", NAMED)
    graph = pygraphviz.AGraph(filename=str(tmp_path / "c.dot"))
    edges = {(e[0], e[1], e.attr["kind"], e.attr["score"]) for e in graph.edges() if e.attr["kind"]}
    expected = set()
    for name in circuit.edges:
        source, reader = name.split("->")
        node, _, kind = reader.rstrip(">").partition("<")
        expected.add((source, node, kind or "in", f"{circuit.score(name):.6g}"))
    assert edges == expected
    assert {str(node) for node in graph.nodes() if not node.startswith("row ")} == set(circuit.nodes)
    graph.close()


def test_a_label_without_a_second_line_is_quoted(tmp_path):
    for label in (*HOSTILE, "<b>x</b>"):
        write_dot(scored(GRAPHS[0]), tmp_path / "c.dot", Naming(groups={label: ("m0",)}))
        graph = pygraphviz.AGraph(filename=str(tmp_path / "c.dot"))
        assert len([node for node in graph.nodes() if not node.startswith("row ")]) == len(scored(GRAPHS[0]).nodes)
        graph.close()


def test_svg_shows_hostile_labels_as_text(tmp_path, capfd):
    write_svg(scored(GRAPHS[0], share=0.8), tmp_path / "c.svg", NAMED)
    root = ElementTree.parse(tmp_path / "c.svg").getroot()
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "g", "title", "polygon", "polyline", "path", "ellipse", "text"}
    texts = {element.text.replace("\u00a0", " ") for element in root.iter() if element.tag.endswith("}text")}
    assert set(HOSTILE) <= texts
    assert set(NODES) <= texts
    assert "Warning: node" not in capfd.readouterr().err


def test_dashes_tell_the_sign_without_colour(tmp_path):
    circuit = scored(GRAPHS[0])
    write_svg(circuit, tmp_path / "c.svg", colours="kind")
    paths = [e for e in ElementTree.parse(tmp_path / "c.svg").getroot().iter() if e.tag.endswith("}path")]
    dashed = [path for path in paths if "stroke-dasharray" in path.attrib]
    negative = [name for name in circuit.edges if circuit.score(name) < 0]
    assert len(dashed) == len(negative) + 1  # and one in the legend


def test_pdf_is_vector_with_its_fonts_inside(tmp_path):
    write_pdf(scored(GRAPHS[2]), tmp_path / "c.pdf", NAMED, direction="right")
    assert (tmp_path / "c.pdf").read_bytes().startswith(b"%PDF")
    fonts = [line.split() for line in pdf_tool("pdffonts", tmp_path / "c.pdf").splitlines()[2:]]
    assert fonts
    assert all(font[-5] == "yes" for font in fonts)
    assert len(pdf_tool("pdfimages", "-list", tmp_path / "c.pdf").splitlines()) == 2
    assert "<script>alert('x')</script>" in pdf_tool("pdftotext", "-raw", tmp_path / "c.pdf", "-")


def test_png_is_as_fine_as_asked(tmp_path):
    sizes = []
    for dpi in (72, 144):
        write_png(scored(GRAPHS[0]), tmp_path / "c.png", dpi=dpi)
        data = (tmp_path / "c.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        sizes.append(int.from_bytes(data[16:20], "big"))
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.05)
    with pytest.raises(InputError, match="dpi"):
        write_png(scored(GRAPHS[0]), tmp_path / "d.png", dpi=0)


def test_without_pygraphviz_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(picture, "has_graphviz", lambda: False)
    with pytest.raises(InputError, match=r"mech-circuits\[viz\]"):
        write_svg(scored(GRAPHS[0]), tmp_path / "c.svg")
    assert list(tmp_path.iterdir()) == []
