"""TikZ and LaTeX: it compiles, whatever the labels, and no label is a command."""

import pytest

from circuits import Circuit, Graph, InputError, Naming
from circuits.export import layout
from circuits.export.latex import escape
from circuits.export.tables import write_latex_edges, write_latex_nodes
from circuits.export.tikz import write_tikz, write_tikzpicture
from tests.exported import GRAPHS, HOSTILE, compiled, pdf_tool, scored

NODES = ("input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1", "logits")
NAMED = Naming(dict(zip(NODES, HOSTILE, strict=False)))


def test_a_document_compiles_to_one_page_of_the_pictures_size_with_fonts_inside(tmp_path):
    write_tikz(scored(GRAPHS[1]), tmp_path / "c.tex", NAMED, direction="right")
    pdf = compiled(tmp_path / "c.tex")
    assert "Pages:           1" in pdf_tool("pdfinfo", pdf)
    fonts = [line.split() for line in pdf_tool("pdffonts", pdf).splitlines()[2:]]
    assert fonts
    assert all(font[-5] == "yes" and "Type 3" not in " ".join(font) for font in fonts)


def test_hostile_labels_are_text(tmp_path):
    write_tikz(scored(GRAPHS[0], share=1.0), tmp_path / "c.tex", NAMED)
    text = pdf_tool("pdftotext", "-raw", compiled(tmp_path / "c.tex"), "-")
    for set_as, typed in ("’'", '”"', "ˆ^", "˜~", "\u2212-", "‘`"):
        text = text.replace(set_as, typed)
    assert "<script>alert('x')</script>" in text
    assert r"\input{/etc/passwd} \N \\ $x^2 3$ #1 %~" in text.replace("_", " ")
    assert "root:" not in text
    assert "]]> <![CDATA[ --> -- ?` !`" in text
    assert all(node in text for node in NODES)


def test_a_bare_picture_and_tables_stand_in_a_paper(tmp_path):
    circuit = scored(GRAPHS[0], share=1.0)
    naming = Naming(NAMED.labels, {"group & co": ("logits",)})
    write_tikzpicture(circuit, tmp_path / "c.tikz", naming)
    write_latex_edges(circuit, tmp_path / "edges.tex", NAMED)
    write_latex_nodes(circuit, tmp_path / "nodes.tex", NAMED)
    assert "longtable" in (tmp_path / "edges.tex").read_text()
    paper = r"""\documentclass{article}\usepackage{tikz,booktabs,longtable}\usetikzlibrary{arrows.meta}
    \begin{document}\resizebox{\textwidth}{!}{\input{c.tikz}}
    \input{edges}
    \resizebox{\textwidth}{!}{\input{nodes}}\end{document}"""
    text = pdf_tool("pdftotext", "-layout", compiled(tmp_path / "paper.tex", paper), "-")
    assert "effect of out-edges" in text


def test_the_same_drawing_without_graphviz_compiles(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "has_graphviz", lambda: False)
    write_tikz(scored(GRAPHS[0]), tmp_path / "c.tex", Naming(groups={"MLPs": ("m0", "m1")}))
    compiled(tmp_path / "c.tex")


def test_an_empty_circuit_compiles(tmp_path):
    write_tikz(Circuit.empty(Graph(1, 1, 1, (True,))), tmp_path / "c.tex")
    compiled(tmp_path / "c.tex")


@pytest.mark.parametrize("text", ["中", "🙂", "א", "\u0416"])
def test_letters_that_pdflatex_lacks_are_refused_by_name(text, tmp_path):
    with pytest.raises(InputError, match=f"U\\+{ord(text):04X}"):
        write_tikz(scored(GRAPHS[0]), tmp_path / "c.tex", Naming({"input": f"a {text}"}))
    assert list(tmp_path.iterdir()) == []


def test_every_sign_that_is_taken_compiles(tmp_path):
    signs = [chr(i) for i in range(32, 0x2300)]
    taken = []
    for sign in signs:
        try:
            taken.append(escape(sign))
        except InputError:
            continue
    assert len(taken) > 300
    compiled(tmp_path / "c.tex", "\n".join([r"\documentclass{article}\begin{document}", *taken, r"\end{document}"]))
    assert escape(r"\end{document}") == r"\textbackslash{}end\{document\}"
