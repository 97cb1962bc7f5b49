"""Class names of a data set's card; a card that cannot be read is noted, nothing more."""

import json
from pathlib import Path

import pytest

from fasterrcnn.data import dataset_card
from fasterrcnn.data.problems import Problems

FIELDS = ("categories", "category")
CARD = """---
license: cc
dataset_info:
- config_name: default
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names: ['no', 'yes']
  - name: objects
    {kind}:
    - name: bbox
      sequence: float32
      length: 4
    - name: category
      {dtype}
        class_label:
          names: {names}
---
# A data set
"""


def card(names: str, kind: str = "sequence", dtype: str = "dtype:") -> str:
    return CARD.format(names=names, kind=kind, dtype=dtype)


def names(root: Path) -> tuple[dict[int, str] | None, Problems]:
    problems = Problems()
    return dataset_card.class_names(root, FIELDS, problems), problems


@pytest.mark.parametrize(
    "text",
    [
        card("{'0': mask, '1': glove}"),
        card("{0: mask, 1: glove}", kind="struct"),
        card("[mask, glove]", kind="list", dtype="sequence:"),
        "\n" + card("[mask, glove]").replace("\n", "\r\n"),
    ],
)
def test_cards(tmp_path: Path, text: str):
    (tmp_path / "README.md").write_bytes(text.encode())
    found, problems = names(tmp_path)
    assert found == {0: "mask", 1: "glove"}
    assert not problems.found


@pytest.mark.parametrize("name", ["dataset_info.json", "dataset_infos.json"])
def test_infos(tmp_path: Path, name: str):
    label = {"names": ["mask", "glove"], "_type": "ClassLabel"}
    features = {"objects": {"feature": {"category": label, "names": 3}, "_type": "Sequence"}}
    (tmp_path / name).write_text(json.dumps({"default": {"features": features}}))
    (tmp_path / "README.md").write_text("# no front matter\n")
    assert names(tmp_path)[0] == {0: "mask", 1: "glove"}


def test_several_lists_are_not_chosen_from(tmp_path: Path):
    (tmp_path / "README.md").write_text(card("[mask, glove]"))
    label = {"names": ["mask"], "_type": "ClassLabel"}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"category": label}))
    found, problems = names(tmp_path)
    assert found is None
    assert problems.counts() == {"different lists of class names: left out": 1}


ALIASES = "\n".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 20))
UNREADABLE = [
    card("[mask, mask]").replace("sequence", "!!python/object:os.system"),
    card("{'0': mask").replace("]", ""),
    "---\ncategory: 2021-13-45\n---\n",
    "---\ncategory: !!timestamp x\n---\n",
    "---\n? [a]\n: category\n---\n",
    f"---\n{'[' * 5000}\n---\n",
    "---\na: &a {x: 1}\nb: {<<: *a}\n---\n",
    f"---\n{'a: 1 # ' + 'x' * 2**18}\n---\n",
]


@pytest.mark.parametrize("text", UNREADABLE, ids=range(len(UNREADABLE)))
def test_cards_that_cannot_be_read(tmp_path: Path, text: str):
    (tmp_path / "README.md").write_text(text)
    (tmp_path / "dataset_info.json").write_bytes(b"\xff{")
    found, problems = names(tmp_path)
    assert found is None
    assert [Path(p.file).name for p in problems.found] == ["README.md", "dataset_info.json"]
    assert all(p.what.startswith("class names cannot be read (") for p in problems.found)


def test_cards_without_names_and_with_many_aliases(tmp_path: Path):
    for text in (
        f"---\na0: &a0 [x]\n{ALIASES}\n---\n",
        "---\ncategory:\n  class_label:\n    names: 3\n---\n",
        "---\ncategory:\n  class_label:\n    names: {a: b}\n---\n",
        card("[mask, mask]"),
        "---\n---\n",
        "",
    ):
        (tmp_path / "README.md").write_text(text)
        found, problems = names(tmp_path)
        assert found is None
        assert not problems.found
