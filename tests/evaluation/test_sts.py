"""Reading sentence-similarity files, and the one line that each mistake gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from matryoshka2d.errors import UserError
from matryoshka2d.evaluation import read_sts

HEADER = "subset\tsplit\tscore\tsentence1\tsentence2\n"
ROWS = 'a\ttest\t5.0\tA "cat" sat\tOne cat\na\tdev\t1\tx\ty\na\ttest\t0\tA cat\tThe sea\n'


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_bytes(text.encode())
    return file


def message(*args: object, **kwargs: object) -> str:
    with pytest.raises(UserError) as caught:
        read_sts(*args, **kwargs)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_tsv_file_is_read_without_quoting(tmp_path: Path) -> None:
    (pairs,) = read_sts(write(tmp_path, "toy.tsv", HEADER + ROWS))
    assert pairs.name == "toy"
    assert pairs.sentence1 == ('A "cat" sat', "A cat")
    assert pairs.sentence2 == ("One cat", "The sea")
    assert pairs.gold.tolist() == [5.0, 0.0]


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    text = "\ufeff" + (HEADER + ROWS).replace("\n", "\r\n")
    (pairs,) = read_sts(write(tmp_path, "toy.tsv", text))
    assert pairs.sentence2 == ("One cat", "The sea")


def test_a_rare_line_separator_stays_in_its_sentence(tmp_path: Path) -> None:
    text = HEADER + "a\ttest\t5\tone\u2028two\x85three\tx\na\ttest\t1\ty\tz\n"
    (pairs,) = read_sts(write(tmp_path, "toy.tsv", text))
    assert pairs.sentence1[0] == "one\u2028two\x85three"


def test_csv_and_jsonl_hold_the_same(tmp_path: Path) -> None:
    rows = [("test", "5", 'A "cat", sat\nand slept', "One cat"), ("test", "0", "A cat", "The sea")]
    csv_text = (
        'split,score,sentence1,sentence2\ntest,5,"A ""cat"", sat\nand slept",One cat\ntest,0,A cat,The sea\n'
    )
    names = ("split", "score", "sentence1", "sentence2")
    jsonl_text = "\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows)
    (from_csv,) = read_sts(write(tmp_path, "toy.csv", csv_text))
    (from_jsonl,) = read_sts(write(tmp_path, "toy.jsonl", jsonl_text))
    assert from_csv.sentence1 == from_jsonl.sentence1 == ('A "cat", sat\nand slept', "A cat")
    assert from_csv.gold.tolist() == from_jsonl.gold.tolist() == [5.0, 0.0]


def test_a_file_without_splits_is_read_whole(tmp_path: Path) -> None:
    file = write(tmp_path, "toy.tsv", "score\tsentence1\tsentence2\n1\ta\tb\n2\tc\td\n")
    assert len(read_sts(file)[0]) == len(read_sts(file, "dev")[0]) == len(read_sts(file, None)[0]) == 2


def test_all_splits(tmp_path: Path) -> None:
    assert len(read_sts(write(tmp_path, "toy.tsv", HEADER + ROWS), None)[0]) == 3


def test_a_folder_comes_in_the_order_of_the_paper(tmp_path: Path) -> None:
    for name in ("zulu", "sickr", "alpha", "stsb", "sts16", "sts12"):
        write(tmp_path, f"{name}.tsv", HEADER + ROWS)
    write(tmp_path, "README.md", "no set")
    assert [s.name for s in read_sts(tmp_path)] == ["sts12", "sts16", "stsb", "sickr", "alpha", "zulu"]


def test_named_files_keep_their_order(tmp_path: Path) -> None:
    files = [write(tmp_path, f"{name}.tsv", HEADER + ROWS) for name in ("stsb", "sts12")]
    assert [s.name for s in read_sts(files)] == ["stsb", "sts12"]


def test_sets_of_a_folder_without_the_split_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a.tsv", HEADER + ROWS)
    write(tmp_path, "b.tsv", HEADER + ROWS.replace("test", "dev"))
    assert [s.name for s in read_sts(tmp_path, "test")] == ["a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            HEADER.replace("sentence2", "other") + ROWS,
            "found 'subset', 'split', 'score', 'sentence1', 'other'",
        ),
        (HEADER + "a\ttest\tfive\tx\ty\n", "toy.tsv, line 2: column 'score' is 'five': expected a number"),
        (HEADER + "a\ttest\tnan\tx\ty\n", "line 2: column 'score' is 'nan': expected a number"),
        (HEADER + "a\ttest\t1\tx\ty\n\na\ttest\t2\t \ty\n", "line 4: column 'sentence1' is empty"),
        (HEADER + "a\ttest\t1\tx\n", "line 2: 4 columns, expected the 5"),
        (HEADER + "a\ttest\t1\tx\ty\na\ttest\t1\tx\ty\n", "2 pairs, all with the same score"),
        (HEADER, "has no rows"),
        ("", "is empty"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    error = message(write(tmp_path, "toy.tsv", text))
    assert expected in error
    assert "toy" in error


def test_a_missing_split_names_those_that_exist(tmp_path: Path) -> None:
    file = write(tmp_path, "toy.tsv", HEADER + ROWS)
    for place in (file, tmp_path):
        error = message(place, "tset")
        assert "dev, test" in error
        assert "Did you mean 'test'?" in error


def test_missing_places(tmp_path: Path) -> None:
    assert "there is no file" in message(tmp_path / "nowhere")
    assert "no STS file" in message(tmp_path)
    assert "unknown kind of file" in message(write(tmp_path, "toy.docx", "x"))
    assert "expected sentence1+sentence2+score" in message(write(tmp_path, "toy.txt", "x"))


def test_wrong_jsonl(tmp_path: Path) -> None:
    assert "line 1: not JSON" in message(write(tmp_path, "a.jsonl", "{"))
    assert "row 1: a JSON number: expected one object" in message(write(tmp_path, "b.jsonl", "[1]"))
    assert "expected sentence1+sentence2+score" in message(write(tmp_path, "c.jsonl", '{"sentence1": "x"}'))


def test_wrong_encoding(tmp_path: Path) -> None:
    file = tmp_path / "toy.tsv"
    file.write_bytes(HEADER.encode() + b"a\ttest\t1\t\xff\ty\n")
    assert "line 2: byte 0xff is not UTF-8" in message(file)


def test_two_sets_of_one_name(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    error = message([write(folder, "toy.tsv", HEADER + ROWS) for folder in (first, second)])
    assert "two sets are called 'toy'" in error


@pytest.mark.shared_data
def test_the_real_sets_have_the_rows_of_the_paper(sts_folder: Path) -> None:
    counts = {pairs.name: len(pairs) for pairs in read_sts(sts_folder)}
    expected = {"sts12": 3108, "sts13": 1500, "sts14": 3750, "sts15": 3000, "sts16": 1186}
    assert counts == {**expected, "stsb": 1379, "sickr": 4927}
    assert list(counts) == [*expected, "stsb", "sickr"]
