"""A newcomer's mistakes: one line that says how to mend it, exit code 2, nothing written, nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import tiny

Refused = Callable[..., str]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder of the command, with a folder `used` that must stay as it is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "precious").write_text("keep me")
    return tmp_path


@pytest.mark.usefixtures("no_model_is_loaded")
class TestBeforeAnyModelIsLoaded:
    """What can be known without a model is said at once, not after minutes of work."""

    @pytest.fixture(autouse=True)
    def _nothing_changes(self, sandbox: Path) -> object:
        written(sandbox / "in.txt", "a cat\n")
        written(sandbox / "pairs.jsonl", '{"anchor": "a", "positive": "b"}\n' * 4)
        written(sandbox / "sts.tsv", "score\tsentence1\tsentence2\n1\ta\tb\n2\tc\td\n")
        before = snapshot(sandbox)
        yield
        after = {path: content for path, content in snapshot(sandbox).items() if path in before}
        assert after == before
        new = {path.name for path in sandbox.iterdir()} - {"used", "in.txt", "pairs.jsonl", "sts.tsv"}
        assert new <= {"wrong"}, "something was written"

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("encode default in.txt used/precious", "it is a file, expected the name of a folder"),
            ("encode default in.txt in.txt", "ends in '.txt': expected .npy"),
            ("encode default in.txt used/precious/out.npy", "precious is a file, not a folder"),
            ("encode default in.text out.npy", "no file in.text.*Did you mean 'in.txt'"),
            ("encode default in.txt out.csv", "ends in '.csv': expected .npy, .parquet, .jsonl"),
            ("encode default in.txt out.npy --size 3", "'3' is not a size"),
            ("encode default in.txt out.npy --size 3x0", "at least 1"),
            ("encode default in.txt out.npy --column body", "has no column 'body': it has text"),
            ("truncate default 3x0 out", "at least 1"),
            ("truncate default big out", "'big' is not a size"),
            ("truncate default 3x8 used", "used exists already: .*--overwrite"),
            ("truncate default 3x8 in.txt", "in.txt: it is a file"),
            ("truncate default 3x8 in.txt/out", "in.txt is a file, not a folder"),
            ("evaluate default", "nothing to evaluate on: .*--sts"),
            ("evaluate default --sts no-such", "there is no file no-such"),
            ("evaluate default --sts used", "no STS file in used"),
            ("evaluate default --sts sts.tsv --sizes 6", "not a grid of sizes"),
            ("evaluate default --sts sts.tsv --sizes 6x0", "at least 1"),
            ("evaluate default --sts sts.tsv --sizes 6-1x8", "smaller number first"),
            ("evaluate default --sts sts.tsv --metric spearmen", "Did you mean 'spearman'"),
            ("evaluate default --sts sts.tsv --cut pac", "Did you mean 'pca'"),
            ("evaluate default --sts sts.tsv --output used", "used exists already"),
            ("evaluate default --sts sts.tsv --output in.txt", "it is a file"),
            ("evaluate default --retrieval no-such", "no-such is not a folder"),
            ("evaluate default --retrieval used", "corpus.jsonl does not exist"),
            (
                "evaluate default --retrieval beir --query-size 2x64 --document-size 6x128",
                "queries of 128 dims, as in 2x128",
            ),
            ("evaluate default --retrieval beir --sizes 2x64 --query-size 2x64", "alike: leave them out"),
            ("evaluate default --retrieval beir --query-size 2", "not a grid of sizes"),
            ("evaluate default --sts sts.tsv --query-size 2x64", "of retrieval alone: leave out --sts"),
            ("evaluate default --retrieval beir --document-size 2x64 --save", "leave out --save"),
            ("train --output out", "no training data: .*--data"),
            ("train --data pairs.jsonl", "no output: .*--output"),
            ("train --data pairs.json --output out", "no file pairs.json.*Did you mean 'pairs.jsonl'"),
            ("train --data used --output out", "used holds no data"),
            ("train --data pairs.jsonl --output used", "used exists already"),
            ("train --data pairs.jsonl --output in.txt/out", "in.txt is a file"),
            ("train --data pairs.jsonl --output out --strategy 2dsme", "Did you mean '2dmse'"),
            ("train --data pairs.jsonl --output out --strategy-options layers=2 --strategy mrl", "no option"),
            ("train --data pairs.jsonl --output out --strategy-options much", "expected NAME=VALUE"),
            ("train --data pairs.jsonl --output out --report-to tensorbord", "Did you mean 'tensorboard'"),
            ("train --data pairs.jsonl --output out --cross-exit -1", "'cross_exit' is -1"),
            ("train --data pairs.jsonl --output out --lora --lora-options r=8", "adapter 'lora' has no opt"),
            ("train --data pairs.jsonl --output out --lora-options rank=8", "lora_options without lora"),
            ("train --data pairs.jsonl --output out --objective angel", "Did you mean 'angle'"),
            (
                "train --data pairs.jsonl --output out --objective infonce --objective-options scales=1",
                "scale",
            ),
            (
                "train --data pairs.jsonl --output out --batch-size 1",
                "'batch_size' is 1: expected a whole number of at least 2",
            ),
            ("train --data pairs.jsonl --output out --epochs nan", "'epochs' is nan"),
            ("train --data pairs.jsonl --output out --columns anchor=q", "no column 'q'|'q'"),
            ("train --config no.yaml", "config no.yaml does not exist"),
        ],
    )
    def test_it_is_said_at_once(self, refused: Refused, words: str, said: str) -> None:
        assert re.search(said, refused(*words.split()))

    def test_an_output_without_permission(self, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
        # Root may write anywhere, so the refusal of the system is played.
        monkeypatch.setattr("matryoshka2d.files.os.access", lambda _, mode: mode != os.W_OK)
        for words in (
            "encode default in.txt new.npy",
            "truncate default 3x8 new",
            "evaluate default --sts sts.tsv --output new",
            "train --data pairs.jsonl --output new",
        ):
            assert "no permission to write" in refused(*words.split())

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("", "holds no options"),
            ("- a\n- b\n", "holds no options"),
            ("strategy: [mrl\n", "is not YAML"),
            (b"strategy: \xff\xfe\n", "is not YAML"),
            ("seed: 2024-13-45\n", "is not YAML"),
            ("seed: " + "[" * 100_000, "is not YAML"),
            ("strategie: mrl\n", "unknown option 'strategie'.*Did you mean 'strategy'"),
            ("batch_size: many\n", "'batch_size' is 'many': expected a whole number"),
            ("strategy_options: 3\n", "expected names and values"),
            ("checkpoints: maybe\n", "expected true or false"),
        ],
    )
    def test_an_unreadable_file_of_options(
        self, refused: Refused, sandbox: Path, content: str | bytes, said: str
    ) -> None:
        written(sandbox / "wrong", content)
        message = refused("train", "--config", "wrong", "--data", "pairs.jsonl", "--output", "out")
        assert re.search(said, message)

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("empty.txt", "", "is empty"),
            ("blank.txt", "\n \n\u00a0\n", "is empty"),
            ("latin.txt", b"a\nb\xe9\n", "not UTF-8"),
            ("broken.jsonl", '{"text": "a"}\n\n{"text": \n', "line 3: not JSON"),
            ("list.jsonl", '{"text": "a"}\n[1]\n', "line 2: a JSON list"),
            ("gap.jsonl", '{"text": ""}\n{"text": " "}\n', "every text of column 'text' is empty"),
            ("number.jsonl", '{"text": "a"}\n{"text": 3}\n', "line 2: column 'text' is the int 3"),
            ("absent.jsonl", '{"text": "a"}\n{"title": "b"}\n', "line 2: there is no 'text'"),
            ("first.jsonl", '{"text": null, "id": "b"}\n', "every text of column 'text' is empty"),
            ("two.jsonl", '{"left": "a", "right": "b"}\n', "which column.*left, right.*--column"),
            ("half.jsonl", '{"text": "\\ud800"}\n', "half a surrogate pair"),
            ("broken.parquet", "no parquet", "is not a readable Parquet file"),
        ],
    )
    def test_texts_that_cannot_be_embedded(
        self,
        refused: Refused,
        tmp_path_factory: pytest.TempPathFactory,
        name: str,
        content: str | bytes,
        said: str,
    ) -> None:
        path = written(tmp_path_factory.mktemp("data") / name, content)
        assert re.search(said, refused("encode", "default", path, "out.npy"))

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("empty.tsv", "", "empty|no column"),
            ("header.tsv", "score\tsentence1\tsentence2\n", "has no rows"),
            ("columns.tsv", "score\ta\tb\n1\tx\ty\n", "found 'score', 'a', 'b'; expected sentence1"),
            ("short.tsv", "score\tsentence1\tsentence2\n1\tx\n", "line 2: 2 columns, expected the 3"),
            (
                "word.tsv",
                "score\tsentence1\tsentence2\nhigh\tx\ty\n",
                "line 2: column 'score' is 'high': expected a number",
            ),
            (
                "gap.tsv",
                "score\tsentence1\tsentence2\n1\tx\ty\n2\t \ty\n",
                "line 3: column 'sentence1' is empty",
            ),
            ("same.tsv", "score\tsentence1\tsentence2\n1\tx\ty\n1\tx\tz\n", "all with the same score"),
            ("split.csv", "split,score,sentence1,sentence2\ndev,1,x,y\n", "no row with split 'test'.*dev"),
            ("broken.jsonl", '{"score": 1,\n', "line 1: not JSON"),
            ("latin.tsv", b"score\tsentence1\tsentence2\n1\tx\xe9\ty\n", "not UTF-8"),
        ],
    )
    def test_pairs_that_cannot_be_evaluated(
        self,
        refused: Refused,
        tmp_path_factory: pytest.TempPathFactory,
        name: str,
        content: str | bytes,
        said: str,
    ) -> None:
        path = written(tmp_path_factory.mktemp("data") / name, content)
        assert re.search(said, refused("evaluate", "default", "--sts", path, "--json"))

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("empty.jsonl", "", "is empty"),
            ("header.csv", "anchor,positive\n", "has no rows"),
            ("columns.csv", "left,right\na,b\n", "columns are not recognized: found"),
            ("gap.csv", "anchor,positive\na,\nc,\n", "no rows whose texts are all there"),
            ("broken.jsonl", '{"anchor": "a", "positive": "b"}\n{"anchor"\n', "line 2: not JSON"),
            (
                "label.csv",
                "sentence1,sentence2,score\na,b,1\nc,d,9\n",
                "line 3: column 'score' is 9, expected 0 to 5",
            ),
            (
                "word.csv",
                "sentence1,sentence2,score\na,b,1\nc,d,high\n",
                "line 3: .*'high': expected a number",
            ),
            ("kind.docx", "a", "unknown kind of file '.docx'"),
        ],
    )
    def test_rows_that_cannot_be_trained_on(
        self,
        refused: Refused,
        tmp_path_factory: pytest.TempPathFactory,
        name: str,
        content: str | bytes,
        said: str,
    ) -> None:
        path = written(tmp_path_factory.mktemp("data") / name, content)
        assert re.search(said, refused("train", "--data", path, "--output", "out"))


@pytest.mark.usefixtures("no_model_is_loaded")
class TestReplacingWhatIsNeeded:
    """--overwrite replaces an old output; never a folder that holds an input or the working folder."""

    @pytest.mark.parametrize(
        "words",
        [
            "truncate used/model 2x8 used",
            "truncate used 2x8 used",
            "evaluate used/model --sts {sts} --output used",
            "evaluate default --sts {sts} --sts used/sts.tsv --output used",
            "evaluate default --retrieval used/beir --output used",
            "train --model used/model --data {pairs} --output used",
            "train --data {pairs} --data used/pairs.jsonl --output used",
            "train --data {pairs} --dev used/sts.tsv --output used",
            "truncate default 2x8 .",
            "truncate default 2x8 ..",
            "evaluate default --sts {sts} --output {here}",
        ],
    )
    def test_it_is_refused(self, refused: Refused, sandbox: Path, sts: Path, pairs: Path, words: str) -> None:
        for folder in ("model", "beir"):
            (sandbox / "used" / folder).mkdir()
        for file in ("sts.tsv", "pairs.jsonl"):
            (sandbox / "used" / file).write_text("keep me too")
        before = snapshot(sandbox)
        message = refused(*words.format(sts=sts, pairs=pairs, here=sandbox).split(), "--overwrite")
        assert "cannot be replaced" in message
        assert snapshot(sandbox) == before


class TestModels:
    """What only the model can tell, said without a trace and with nothing written."""

    COMMANDS = (
        "encode {model} {texts} out.npy --size {size}",
        "truncate {model} {size} out",
        "evaluate {model} --sts {sts} --sizes {size} --output out",
    )

    @pytest.fixture(params=COMMANDS, ids=lambda command: command.split()[0])
    def command(
        self, request: pytest.FixtureRequest, refused: Refused, texts: Path, sts: Path, sandbox: Path
    ) -> Callable[..., str]:
        def call(model: object, size: str = "2x8", *more: str) -> str:
            words = request.param.format(model=model, texts=texts, sts=sts, size=size)
            message = refused(*words.split(), *more)
            assert [path.name for path in sandbox.iterdir()] in (
                ["used"],
                ["used", "wrong"],
                ["wrong", "used"],
            )
            return message

        return call

    @pytest.mark.parametrize(
        ("size", "said"), [("5x8", "too deep: the model has 4"), ("4x33", "too wide.*32")]
    )
    def test_a_size_the_model_lacks(
        self, command: Callable[..., str], model: str, size: str, said: str
    ) -> None:
        assert re.search(said, command(model, size))

    def test_a_missing_folder(self, command: Callable[..., str]) -> None:
        assert "does not exist. Did you mean 'used'?" in command("./usde")

    def test_a_folder_that_is_no_model(self, command: Callable[..., str]) -> None:
        assert "used is not a model" in command("used")

    def test_a_model_without_weights(self, command: Callable[..., str], model: str, sandbox: Path) -> None:
        shutil.copytree(model, sandbox / "wrong")
        (sandbox / "wrong" / "model.safetensors").unlink()
        assert "has no weights" in command("wrong")

    def test_a_model_with_half_its_weights(
        self, command: Callable[..., str], model: str, sandbox: Path
    ) -> None:
        shutil.copytree(model, sandbox / "wrong")
        weights = sandbox / "wrong" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        assert "model 'wrong' cannot be loaded" in command("wrong")

    def test_a_model_of_other_shapes_than_its_config_says(
        self, command: Callable[..., str], model: str, sandbox: Path
    ) -> None:
        shutil.copytree(model, sandbox / "wrong")
        config = sandbox / "wrong" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "intermediate_size": 40}))
        assert "model 'wrong' cannot be loaded" in command("wrong")

    def test_a_hub_that_cannot_be_reached(self, command: Callable[..., str]) -> None:
        assert "no such folder, and the hub did not give it" in command("nobody/nothing-at-all")

    def test_an_unknown_device(self, command: Callable[..., str], model: str) -> None:
        assert "cannot be loaded" in command(model, "2x8", "--device", "toaster")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
    def test_a_device_that_is_not_there(self, command: Callable[..., str], model: str) -> None:
        assert "cannot be loaded" in command(model, "2x8", "--device", "cuda")

    def test_a_second_pooling(self, command: Callable[..., str], model: str) -> None:
        assert "has a pooling of its own" in command(model, "2x8", "--pooling", "cls")

    @pytest.mark.parametrize("words", ["encode {model} {texts} out.npy", "evaluate {model} --sts {sts}"])
    def test_a_prompt_the_model_lacks(
        self, refused: Refused, model: str, texts: Path, sts: Path, sandbox: Path, words: str
    ) -> None:
        message = refused(*words.format(model=model, texts=texts, sts=sts).split(), "--prompt-name", "qeury")
        assert "Did you mean 'query'?" in message

    @pytest.mark.parametrize("words", ["encode {model} {texts} out.npy", "truncate {model} 2x8 out"])
    def test_an_architecture_that_is_not_in_the_table(
        self, refused: Refused, unknown_model: str, texts: Path, sandbox: Path, words: str
    ) -> None:
        message = refused(*words.format(model=unknown_model, texts=texts).split())
        assert re.search("architecture 'albert' is not known: .*To add it", message)
        assert [path.name for path in sandbox.iterdir()] == ["used"]

    def test_training_an_architecture_that_is_not_in_the_table(
        self, refused: Refused, unknown_model: str, pairs: Path, sandbox: Path
    ) -> None:
        message = refused("train", "--model", unknown_model, "--data", pairs, "--output", "out")
        assert "architecture 'albert' is not known" in message
        assert [path.name for path in sandbox.iterdir()] == ["used"]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("--dev no-such.tsv", "there is no file no-such.tsv"),
            ("--strategy 2dmse --strategy-options dims=0", "0 dims are not possible"),
            ("--strategy 2dmse --strategy-options dims=8,64", "64"),
            ("--precision fp7", "fp7"),
            ("--device toaster", "toaster"),
        ],
    )
    def test_training_that_cannot_be_done(
        self, refused: Refused, model: str, pairs: Path, sandbox: Path, words: str, said: str
    ) -> None:
        message = refused("train", "--model", model, "--data", pairs, "--output", "out", "-q", *words.split())
        assert re.search(said, message)
        assert [path.name for path in sandbox.iterdir()] == ["used"]

    def test_a_missing_teacher(self, refused: Refused, model: str, texts: Path, sandbox: Path) -> None:
        words = ["--data", texts, "--output", "out", "-q", "--teacher", "./no-such"]
        assert "no-such does not exist" in refused("train", "--model", model, *words)

    def test_a_plain_checkpoint_with_an_unknown_pooling(self, refused: Refused, sandbox: Path) -> None:
        tiny.checkpoint(sandbox / "plain")
        message = refused("truncate", "plain", "2x8", "out", "--pooling", "men")
        assert "Did you mean 'mean'?" in message
