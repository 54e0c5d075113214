from pathlib import Path

import pytest

from training.errors import GenerateError
from training.generate_request import GenerateRequest
from training.prompt_file import read_prompts

COMMON = GenerateRequest(seed=5, num_sampling_steps=3)


def read(folder: Path, name: str, text: str) -> list[GenerateRequest]:
    (folder / name).write_text(text)
    return read_prompts(folder / name, COMMON)


def test_each_line_of_a_text_is_a_prompt(tmp_path: Path) -> None:
    found = read(tmp_path, "p.txt", "\ufeffa cat\n\n  a dog, running \n")
    assert [request.prompt for request in found] == ["a cat", "a dog, running"]
    assert {(request.seed, request.num_sampling_steps) for request in found} == {(5, 3)}


def test_a_table_has_a_column_for_each_setting(tmp_path: Path) -> None:
    table = 'prompt,seed,image,task\n"a cat, seated",7,cat.png,\nfrom text,,,\nan object,,/views/o.png,multi_view\n'
    first, second, third = read(tmp_path, "p.csv", table)
    assert (first.prompt, first.seed, first.image) == ("a cat, seated", 7, tmp_path / "cat.png")
    assert (second.seed, second.image, second.task) == (5, None, None)
    assert (third.image, third.task) == (Path("/views/o.png"), "multi_view")


def test_json_lines_say_the_same(tmp_path: Path) -> None:
    lines = '{"prompt": "a cat", "seed": 7, "video": "v.mp4"}\n{"class": "YoYo", "image": null}\n'
    first, second = read(tmp_path, "p.jsonl", lines)
    assert (first.prompt, first.seed, first.video) == ("a cat", 7, tmp_path / "v.mp4")
    assert (second.class_name, second.image, second.seed) == ("YoYo", None, 5)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.yaml", "a", r"does not end in \.txt, \.csv, \.jsonl"),
        ("p.txt", "\n \n", "holds no prompt"),
        ("p.csv", "prompt,sead\na,1\n", "line 2: column 'sead' is none of prompt, class"),
        ("p.csv", "prompt,seed\na,x\n", "line 2: seed is 'x', expected a whole number"),
        ("p.csv", "prompt,seed\na,1,2\n", "line 2 .* not as many columns as the header, 2"),
        ("p.csv", "prompt,seed\na\n", "line 2 .* not as many columns"),
        ("p.csv", 'prompt\n"a', "cannot be read as CSV"),
        ("p.jsonl", '{"prompt": "a"}\n{', "line 2 of the prompts is not JSON"),
        ("p.jsonl", '["a"]', "expected {...}"),
        ("p.jsonl", '{"prompt": 3}', "prompt is 3, expected text"),
        ("p.jsonl", '{"seed": 1.5}', "seed is 1.5"),
        ("p.jsonl", '{"task": "t3v"}', "task 't3v' is none of t2i"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(GenerateError, match=said):
        read(tmp_path, name, text)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(GenerateError, match="does not exist"):
        read_prompts(tmp_path / "p.txt", COMMON)
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GenerateError, match="is not text in UTF-8"):
        read_prompts(tmp_path / "p.txt", COMMON)
