"""Hostile data sets, a folder each, in every format that is read and some that are not."""

from __future__ import annotations

import json
from typing import Any

from tests.data import make
from tests.data.fuzz import TARGETS
from tests.faults.places import Place

_LAUGHS = "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10}">' for k in range(1, 12))
_DEEP = 100_000


def plain(place: Place) -> None:
    """A harmless folder: what a command takes for it is the base."""
    make.coco(place.given)


def _coco(place: Place, at: tuple[str | int, ...], value: Any) -> None:
    make.coco(place.given, make.changed(at, value))


def _coco_text(place: Place, old: str, new: str) -> None:
    text = json.dumps(make.CONTENT)
    assert old in text
    make.coco(place.given, text.replace(old, new, 1).encode())


def coco_file_above(place: Place) -> None:
    _coco(place, ("images", 0, "file_name"), "../../outside/secret.png")


def coco_absolute_file(place: Place) -> None:
    _coco(place, ("images", 0, "file_name"), str(place.outside / "secret.png"))


def coco_file_of_windows(place: Place) -> None:
    _coco(place, ("images", 0, "file_name"), "..\\..\\outside\\secret.png")


def coco_file_with_escapes(place: Place) -> None:
    _coco(place, ("images", 0, "file_name"), "\x1b]0;owned\x07\x1b[2J\nerror: x\ra.png")


def coco_url_above(place: Place) -> None:
    content = make.changed(("images", 0, "file_name"), ...)
    content["images"][0]["coco_url"] = "http://x/%2e%2e/%2e%2e/%2e%2e/outside/secret.png"
    make.coco(place.given, content)


def coco_in_brackets(place: Place) -> None:
    make.coco(place.given, b'{"images":' + b"[" * _DEEP + b"]" * _DEEP + b"}")


def coco_in_objects(place: Place) -> None:
    _coco_text(place, '"area": 150', '"segmentation": ' + '{"a":' * _DEEP + "1" + "}" * _DEEP)


def coco_category_in_brackets(place: Place) -> None:
    _coco_text(place, '"name": "dog"', '"name": "dog", "x": ' + "[" * _DEEP + "]" * _DEEP)


def coco_of_one_number(place: Place) -> None:
    make.coco(place.given, b"9" * 5_000_000)


def coco_id_of_many_digits(place: Place) -> None:
    _coco_text(place, '"image_id": 1', '"image_id": ' + "9" * 4000)


def coco_box_of_many_digits(place: Place) -> None:
    _coco_text(place, "[1, 2, 10, 20]", "[1, 2, 10, " + "9" * 1_000_000 + "]")


def coco_width_of_an_exponent(place: Place) -> None:
    _coco_text(place, '"width": 60', '"width": 1e999999999')


def coco_of_a_huge_image(place: Place) -> None:
    _coco_text(place, '"height": 40, "width": 60', '"height": 999999999, "width": 999999999')


def coco_of_many_categories(place: Place) -> None:
    more = [{"id": k, "name": f"n{k}"} for k in range(100, 60_000)]
    make.coco(place.given, {**make.CONTENT, "categories": make.CONTENT["categories"] + more})


def coco_name_of_megabytes(place: Place) -> None:
    _coco(place, ("images", 0, "file_name"), "a" * 5_000_000)


def coco_of_a_run_length(place: Place) -> None:
    _coco(
        place, ("annotations", 0, "segmentation"), {"counts": [1 << 62] * 9, "size": [1 << 31] * 2}
    )


def coco_that_runs(place: Place) -> None:
    _coco(place, ("images", 0, "file_name"), f"$(mkdir {place.canary}).png;`mkdir {place.canary}`")


def lvis_of_long_lists(place: Place) -> None:
    content = make.changed(("images", 0, "neg_category_ids"), [3] * 1_000_000)
    content["images"][0]["not_exhaustive_category_ids"] = ["9" * 100_000]
    make.coco(place.given, content)


def _target(place: Place, name: str, file: str, old: str, new: str) -> None:
    TARGETS[name].write(place.given)
    path = place.given / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _voc(place: Place, old: str, new: str) -> None:
    _target(place, "voc", "Annotations/a.xml", old, new)


def voc_of_laughs(place: Place) -> None:
    _voc(place, "<annotation>", f'<!DOCTYPE x [<!ENTITY a0 "ha">{_LAUGHS}]><annotation>&a11;')


def voc_of_laughs_in_utf_7(place: Place) -> None:
    text = f'<!DOCTYPE x [<!ENTITY a0 "ha">{_LAUGHS}]><annotation>&a11;</annotation>'
    TARGETS["voc"].write(place.given)
    head = b'<?xml version="1.0" encoding="utf-7"?>'
    (place.given / "Annotations" / "a.xml").write_bytes(head + text.encode("utf-7"))


def voc_of_an_external_entity(place: Place) -> None:
    entity = f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{place.outside}/secret.txt">]>'
    _voc(place, "<annotation>", f"{entity}<annotation><name>&e;</name>")


def voc_of_a_parameter_entity(place: Place) -> None:
    entity = f'<!DOCTYPE x [<!ENTITY % e SYSTEM "file://{place.outside}/secret.txt"> %e;]>'
    _voc(place, "<annotation>", f"{entity}<annotation>")


def voc_of_an_external_type(place: Place) -> None:
    _voc(
        place,
        "<annotation>",
        f'<!DOCTYPE x SYSTEM "file://{place.outside}/secret.txt"><annotation>',
    )


def voc_in_elements(place: Place) -> None:
    _voc(place, "<object>", "<a>" * _DEEP + "</a>" * _DEEP + "<object>")


def voc_of_open_elements(place: Place) -> None:
    """15 MB, just below the limit of a file about one image."""
    _voc(place, "<object>", "<a/>" * 3_900_000 + "<object>")


def voc_of_attributes(place: Place) -> None:
    attributes = " ".join(f'a{k}=""' for k in range(300_000))
    _voc(place, "<object>", f"<object {attributes}>")


def voc_file_above(place: Place) -> None:
    _voc(place, "<filename>a.png", "<filename>../../outside/secret.png")


def voc_list_above(place: Place) -> None:
    _target(place, "voc", "ImageSets/Main/train.txt", "a\n", "../../outside/secret\n")


def voc_box_of_many_digits(place: Place) -> None:
    _voc(place, "<xmin>1<", f"<xmin>{'9' * 1_000_000}<")


def cvat_of_laughs(place: Place) -> None:
    laughs = f'<!DOCTYPE x [<!ENTITY a0 "ha">{_LAUGHS}]><annotations>&a11;'
    _target(place, "cvat", "annotations.xml", "<annotations>", laughs)


def cvat_in_elements(place: Place) -> None:
    _target(place, "cvat", "annotations.xml", "<meta>", "<a>" * _DEEP + "</a>" * _DEEP + "<meta>")


def cvat_file_above(place: Place) -> None:
    _target(place, "cvat", "annotations.xml", 'name="a.png"', 'name="../../outside/secret.png"')


def cvat_of_many_points(place: Place) -> None:
    _target(place, "cvat", "annotations.xml", "1.0,2.0;", "1.0,2.0;" * 1_000_000)


def cvat_number_of_many_digits(place: Place) -> None:
    _target(place, "cvat", "annotations.xml", 'width="60"', f'width="{"9" * 1_000_000}"')


def _yolo(place: Place, text: str) -> None:
    TARGETS["yolo"].write(place.given)
    (place.given / "data.yaml").write_text(text)


_TRAIN = "train: images/north\nnames: [cat, dog]\n"


def yaml_that_runs(place: Place) -> None:
    call = f"!!python/object/apply:os.system ['mkdir {place.canary}']"
    _yolo(place, f"{_TRAIN}path: {call}\nx: {call}\n")


def yaml_that_runs_for_names(place: Place) -> None:
    call = f"!!python/object/apply:os.mkdir ['{place.canary}']"
    _yolo(place, f"train: images/north\nnames: {call}\n")


def yaml_of_aliases(place: Place) -> None:
    laughs = "".join(
        f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" if k else "a0: &a0 [x]\n"
        for k in range(12)
    )
    _yolo(place, f"{laughs}train: images/north\nnames: *a11\n")


def yaml_of_merges(place: Place) -> None:
    laughs = "a0: &a0 {x: y}\n" + "".join(
        f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 10)}]}}\n" for k in range(1, 12)
    )
    _yolo(place, f"{laughs}{_TRAIN}")


def yaml_in_brackets(place: Place) -> None:
    _yolo(place, _TRAIN + "x: " + "[" * 20_000 + "]" * 20_000)


def yaml_of_a_long_number(place: Place) -> None:
    _yolo(place, f"{_TRAIN}nc: {'9' * 1_000_000}\nkpt_shape: [9999, 3]\n")


def yaml_of_itself(place: Place) -> None:
    _yolo(place, f"{_TRAIN}x: &x [*x, *x]\ny: &y {{*y : *y}}\n")


def yaml_that_downloads(place: Place) -> None:
    _yolo(place, f"{_TRAIN}download: |\n  import os\n  os.mkdir('{place.canary}')\n")


def yolo_row_of_megabytes(place: Place) -> None:
    _yolo(place, _TRAIN)
    (place.given / "labels" / "north" / "a.txt").write_text("0 " + "0.5 " * 2_000_000)


def yolo_class_of_many_digits(place: Place) -> None:
    _yolo(place, _TRAIN)
    (place.given / "labels" / "north" / "a.txt").write_text("9" * 1_000_000 + " 0.5 0.5 0.1 0.1\n")


def yolo_labels_in_circles(place: Place) -> None:
    _yolo(place, _TRAIN)
    (place.given / "images" / "north" / "again").symlink_to(place.given / "images")


def _folder(place: Place, old: str, new: str) -> None:
    _target(place, "imagefolder", "metadata.jsonl", old, new)


def jsonl_file_above(place: Place) -> None:
    _folder(place, '"a.png"', '"../outside/secret.png"')


def jsonl_in_brackets(place: Place) -> None:
    _folder(place, '"objects"', '"x": ' + "[" * _DEEP + "]" * _DEEP + ', "objects"')


def jsonl_of_a_long_number(place: Place) -> None:
    _folder(place, "[1, 2, 10, 20.5]", f"[1, 2, 10, {'9' * 1_000_000}]")


def card_that_runs(place: Place) -> None:
    TARGETS["imagefolder"].write(place.given)
    call = f"!!python/object/apply:os.mkdir ['{place.canary}']"
    (place.given / "README.md").write_text(f"---\nobjects: {call}\n---\n")


def card_of_aliases(place: Place) -> None:
    TARGETS["imagefolder"].write(place.given)
    laughs = "".join(
        f"a{k}: &a{k} {{names: [{', '.join([f'*a{k - 1}'] * 10)}]}}\n" if k else "a0: &a0 [x]\n"
        for k in range(12)
    )
    (place.given / "README.md").write_text(f"---\n{laughs}objects: *a11\n---\n")


def card_in_brackets(place: Place) -> None:
    TARGETS["imagefolder"].write(place.given)
    (place.given / "dataset_info.json").write_text('{"objects": ' * _DEEP)


def labelme_in_brackets(place: Place) -> None:
    make.image(place.given / "a.png", 40, 60)
    (place.given / "a.json").write_text('{"shapes": [], "flags": ' + "[" * _DEEP)


def csv_of_a_huge_field(place: Place) -> None:
    make.image(place.given / "a.png", 40, 60)
    (place.given / "metadata.csv").write_text("file_name,objects\na.png," + "9" * 20_000_000)


FILES = (
    coco_file_above, coco_absolute_file, coco_file_of_windows, coco_file_with_escapes,
    coco_url_above, coco_in_brackets, coco_in_objects, coco_category_in_brackets,
    coco_of_one_number, coco_id_of_many_digits, coco_box_of_many_digits, coco_width_of_an_exponent,
    coco_of_a_huge_image, coco_of_many_categories, coco_name_of_megabytes, coco_of_a_run_length,
    coco_that_runs, lvis_of_long_lists, voc_of_laughs, voc_of_laughs_in_utf_7,
    voc_of_an_external_entity, voc_of_a_parameter_entity, voc_of_an_external_type, voc_in_elements,
    voc_of_open_elements, voc_of_attributes, voc_file_above, voc_list_above, voc_box_of_many_digits,
    cvat_of_laughs, cvat_in_elements, cvat_file_above, cvat_of_many_points,
    cvat_number_of_many_digits, yaml_that_runs, yaml_that_runs_for_names, yaml_of_aliases,
    yaml_of_merges, yaml_in_brackets, yaml_of_a_long_number, yaml_of_itself, yaml_that_downloads,
    yolo_row_of_megabytes, yolo_class_of_many_digits, yolo_labels_in_circles, jsonl_file_above,
    jsonl_in_brackets, jsonl_of_a_long_number, card_that_runs, card_of_aliases, card_in_brackets,
    labelme_in_brackets, csv_of_a_huge_field,
)  # fmt: skip
