"""Pipelines: what a file and a command line come to, what is refused before anything runs, and what a stage depends on."""

from pathlib import Path

import pytest

from posttrain.errors import UserError
from posttrain.fingerprint import check_inputs, content_hash, difference, fingerprint
from posttrain.pipeline import check, read_pipeline
from posttrain.pipeline_commands import hydra_quoted, settings_of_curation, settings_of_run
from posttrain.run import known_algorithms, make_config, unused

TWO = """
common: [model=tiny, train.steps=2]
stages:
  - name: sums
    run: [algo=sapo, task=arithmetic]
  - name: onward
    run: [algo=grpo, "task=[differences,arithmetic]", "model.path=${stage.sums.checkpoint}"]
  - name: judged
    run: [algo=evaluate, "model.path=${stage.onward.checkpoint}"]
"""
ALGORITHMS = known_algorithms()


def config_of(overrides):
    return make_config(overrides, ALGORITHMS, None, None)


def compose(command, overrides):
    if command == "curate":
        return settings_of_curation(overrides)
    config = config_of(overrides)
    return settings_of_run(config, unused(config, overrides))


@pytest.fixture
def read(tmp_path, monkeypatch):
    """read(text, *arguments): the pipeline of such a file, from an empty folder."""
    monkeypatch.chdir(tmp_path)

    def make(text=TWO, *arguments):
        Path("mine.yaml").write_text(text)
        return read_pipeline("mine.yaml", arguments, None)

    return make


def test_later_overrides_of_a_key_count(read):
    pipeline = read(TWO, "train.steps=3", "onward.train.steps=4", "+sums.task.rewards.exact=0.5", "onward.task=letters", "run.dir='a b'")
    sums, onward, judged = pipeline.stages
    assert sums.overrides == ("model=tiny", "algo=sapo", "task=arithmetic", "train.steps=3", "+task.rewards.exact=0.5")
    assert onward.overrides == ("model=tiny", "algo=grpo", "model.path=${stage.sums.checkpoint}", "train.steps=4", "task=letters")
    assert "train.steps=3" in judged.overrides
    assert (pipeline.folder, pipeline.is_resumed, pipeline.name) == (Path("a b"), False, "mine")
    settings = check(pipeline, compose)
    assert [stage.values["train.steps"] for stage in settings.values()] == [3, 4, 3]
    assert settings["sums"].values["task.rewards.exact"] == 0.5
    assert settings["onward"].what == "grpo on letters" and check(read(), compose)["onward"].what == "grpo on differences and arithmetic"


def test_references_become_paths_whatever_is_in_them(read):
    onward = read().stages[1]
    for path in (Path("runs/x/hf"), Path("/tmp/a b/it's, [1]=$2, {3}/hf")):
        config = config_of(onward.fill({("sums", "checkpoint"): path}))
        assert config.model.path == str(path), hydra_quoted(path)


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        (TWO, ["sumz.train.steps=2"], "sumz.train.steps=2: neither a stage nor a section of keys is called sumz; did you mean sums?"),
        (TWO, ["algo=sapo"], "algo=sapo: a pipeline's stages have each their own; sums.algo=sapo changes that of sums"),
        (TWO, ["run.resume=true"], "run.resume=true: needs run.dir"),
        (TWO, ["run.dir=x", "run.resume=maybe"], "run.resume=maybe: expected true or false"),
        (TWO, ["sums.run.dir=x"], "sums.run.dir=x: run.dir=x cannot stand here"),
        (TWO, ["train.stesp=2"], "stage sums: unknown key train.stesp: did you mean train.steps?"),
        (TWO, ["onward.train.steps=0"], "stage onward: train.steps=0: expected a number above 0"),
        (TWO, ["judged.algo.group_size=4"], "stage judged: unknown key algo.group_size"),
        (TWO, ["judged.model.path=/no/such"], "stage judged: model.path=/no/such: there is no such file or folder"),
        (TWO, ["sums.task.source=file", "sums.task.path=rows.jsonl"], "stage sums: task.path=rows.jsonl: there is no such file"),
        (
            TWO.replace("stage.sums.", "stage.sumz."),
            [],
            "stage onward: ${stage.sumz.checkpoint}: sumz is no earlier stage; did you mean sums?",
        ),
        (TWO.replace("stage.sums.", "stage.judged."), [], "stage onward: ${stage.judged.checkpoint}: judged is no earlier stage"),
        (TWO.replace("stage.sums.", "stage.onward."), [], "stage onward: ${stage.onward.checkpoint}: onward is no earlier stage"),
        (TWO.replace("sums.checkpoint", "sums.chekpoint"), [], "stage onward: ${stage.sums.chekpoint}: no stage makes that; did you mean"),
        (TWO.replace("${stage.sums.checkpoint}", "${stage.sums}"), [], "stage onward: cannot read 'model.path=${stage.sums}'"),
        (TWO.replace("sums.checkpoint", "sums.dataset"), [], "stage onward: sums is sapo on arithmetic, which makes no dataset"),
        (
            f"{TWO}  - name: last\n    run: [algo=sapo, 'model.path=${{stage.judged.checkpoint}}']\n",
            [],
            "stage last: judged is evaluate on arithmetic, which makes no checkpoint",
        ),
        (
            TWO,
            ["judged.task.source=file", "judged.task.path=${stage.sums.checkpoint}"],
            "stage judged: task.path=${stage.sums.checkpoint}: a checkpoint, but task.path takes a dataset",
        ),
        (TWO.replace("name: onward", "name: sums"), [], "mine.yaml: stage 2: the name sums is taken by stage 1"),
        (TWO.replace("name: sums", "name: eval"), [], "mine.yaml: stage 1: eval is a section of keys"),
        (TWO.replace("name: sums", "name: Sums-1"), [], "mine.yaml: stage 1: name is 'Sums-1', expected small letters"),
        (TWO.replace("    run: [algo=sapo", "    rum: [algo=sapo"), [], "mine.yaml: stage sums: unknown key rum; did you mean run?"),
        (TWO.replace("    run: [algo=sapo, task=arithmetic]", ""), [], "mine.yaml: stage sums has no command, expected one of"),
        (
            TWO.replace("[algo=sapo, task=arithmetic]", "algo=sapo"),
            [],
            "mine.yaml: stage sums: got 'algo=sapo', expected a list of overrides",
        ),
        (TWO.replace("common: [model", "common: [run.dir=x, model"), [], "mine.yaml: common: run.dir=x cannot stand here"),
        (TWO.replace("common:", "comon:"), [], "mine.yaml: unknown key comon; did you mean common?"),
        ("stages: []", [], "mine.yaml: expected a mapping with `stages`"),
        ("stages: [\n", [], "mine.yaml: cannot be read"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and value else "",
)
def test_a_mistake_is_told_before_anything_runs(read, text, arguments, words):
    with pytest.raises(UserError) as caught:
        check(read(text, *arguments), compose)
    assert str(caught.value).startswith(words)


CURATED = """
common: [model=tiny, eval.samples_per_prompt=4]
stages:
  - name: answers
    run: [algo=distill_offpolicy, train.prompts_per_step=4]
  - name: clean
    curate: [recipe=sub/recipe.yaml, "input=${stage.answers.dataset}", decontaminate.ngram_words=5]
  - name: learn
    run: [algo=sft, task=conversations, "task.path=${stage.clean.dataset}"]
"""
RECIPE = "output: out\nsteps:\n- normalise\n- decontaminate: {against: [held.jsonl]}\n"


@pytest.fixture
def recipe(tmp_path):
    """A recipe in a folder of its own, with the file that it names."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "sub" / "held.jsonl").write_text('{"prompt": "What is 1 + 1?", "answer": 2}\n')
    return tmp_path / "sub"


def test_a_curation_is_checked_and_makes_a_dataset(read, recipe):
    pipeline = read(CURATED, "clean.decontaminate.ngram_characters=6")
    clean = pipeline.stages[1]
    assert "model=tiny" not in clean.overrides and "decontaminate.ngram_characters=6" in clean.overrides
    settings = check(pipeline, compose)
    assert settings["clean"].what == "curate: normalise, decontaminate"
    assert [stage.makes for stage in settings.values()] == [("dataset",), ("dataset",), ("checkpoint",)]
    assert settings["clean"].values["decontaminate.ngram_characters"] == 6 and "output" not in settings["clean"].values
    # What is for all stages and means nothing to one of them is left out there.
    assert [*settings["learn"].unused] == ["eval.samples_per_prompt=4"] and not settings["answers"].unused
    assert "eval.samples_per_prompt" not in settings["learn"].values
    (path,) = settings_of_curation(clean.fill({("answers", "dataset"): Path("runs/a b/it's/dataset.jsonl")})).values["input"]
    assert path == str(Path("runs/a b/it's/dataset.jsonl").absolute())


def test_a_curation_depends_on_what_its_recipe_names(read, recipe):
    overrides = ["recipe=sub/recipe.yaml", "input=sub/held.jsonl"]
    before = fingerprint(settings_of_curation(overrides).values)
    assert fingerprint(settings_of_curation([*overrides, "output=elsewhere"]).values) == before
    assert difference(before, fingerprint(settings_of_curation([*overrides, "seed=3"]).values)) == "seed is 3, was 0"
    (recipe / "held.jsonl").write_text('{"prompt": "What is 1 + 2?", "answer": 3}\n')
    after = fingerprint(settings_of_curation(overrides).values)
    assert {key for key in before if before[key] != after[key]} == {
        *("input", "decontaminate.against", "decontaminate depends on held.jsonl"),
    }


def test_a_judge_that_is_missing_is_told_before_anything_runs(read, recipe, monkeypatch):
    monkeypatch.delenv("POSTTRAIN_JUDGE_URL", raising=False)
    (recipe / "recipe.yaml").write_text("steps:\n- query_filter\n")
    with pytest.raises(UserError, match=r"^stage clean: query_filter: .*POSTTRAIN_JUDGE_URL"):
        check(read(CURATED.replace(", decontaminate.ngram_words=5", "")), compose)


def test_a_curation_may_sample_from_a_stages_model(read, recipe, tmp_path):
    (recipe / "recipe.yaml").write_text("steps:\n- pass_rate: {model: builtin:tiny, rewards: {numeric: 1}}\n")
    given = CURATED.replace("decontaminate.ngram_words=5", '"pass_rate.model=${stage.taught.checkpoint}"')
    taught = given.replace("stages:", "stages:\n  - name: taught\n    run: [algo=sapo]")
    # Absolute: what is relative in a recipe is relative to its folder.
    assert check(read(taught), compose)["clean"].values["pass_rate.model"] == str(tmp_path / "from-stage/taught/checkpoint")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["clean.normalize.x=1"], "stage clean: normalize.x=1: the recipe has no step normalize; did you mean normalise?"),
        (["clean.recipe=no.yaml"], "stage clean: recipe=no.yaml: cannot be read"),
        (["clean.decontaminate.ngram_words=0"], "stage clean: decontaminate: ngram_words=0: expected"),
        (["clean.decontaminate.against=[gone.jsonl]"], "stage clean: decontaminate: against=gone.jsonl: there is no such file"),
        (["clean.input=gone.jsonl"], "stage clean: input=/"),
        (["clean.output=x"], "clean.output=x: output=x cannot stand here; each stage has a folder"),
        (["learn.eval.samples_per_prompt=2"], "stage learn: eval.samples_per_prompt: algo=sft does not use it; leave it out"),
        (
            ["learn.model.path=${stage.clean.checkpoint}"],
            "stage learn: clean is curate: normalise, decontaminate, which makes no checkpoint",
        ),
    ],
)
def test_a_mistake_around_a_curation_is_told_before_anything_runs(read, recipe, changes, words):
    with pytest.raises(UserError) as caught:
        check(read(CURATED, *changes), compose)
    assert str(caught.value).startswith(words)


def test_unknown_pipelines_are_told_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"unknown choice pipeline=two_task: did you mean two_tasks\?"):
        read_pipeline("two_task", [], None)
    with pytest.raises(UserError, match=r"pipeline=no\.yaml: there is no such file"):
        read_pipeline("no.yaml", [], None)
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "own.yaml").write_text(TWO)
    assert read_pipeline("own", [], str(tmp_path)).file == tmp_path / "pipeline" / "own.yaml"


def test_pipelines_of_the_toolkit_are_checked():
    files = sorted((Path(__file__).parents[2] / "configs" / "pipeline").glob("*.yaml"))
    assert [check(read_pipeline(file.stem, [], None), compose) for file in files]


@pytest.fixture
def weights(tmp_path):
    """A folder like a model's, with two files, one in a folder of its own."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"a" * 5_000_000)
    (folder / "sub" / "b.bin").write_bytes(b"b")
    return folder


def test_a_folder_counts_by_names_and_bytes(weights, tmp_path):
    before = content_hash(weights)
    weights.rename(tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere"
    assert content_hash(moved) == before
    changes = [
        lambda: (moved / "a.bin").write_bytes(b"a" * 4_999_999 + b"b"),
        lambda: (moved / "sub" / "b.bin").rename(moved / "sub" / "c.bin"),
        lambda: (moved / "sub" / "empty").touch(),
    ]
    seen = {before}
    for change in changes:
        change()
        seen.add(content_hash(moved))
    assert len(seen) == 4


def test_a_stage_depends_on_values_and_contents_not_on_places(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    common = ["algo=sapo", "task.source=file", "task.path=rows.jsonl"]

    def of(*overrides):
        return fingerprint(compose("run", [*common, *overrides]).values)

    one = of(f"model.path={weights}")
    (tmp_path / "sapo").mkdir()  # algo.name is no path
    assert of("model.path=model", "run.dir=x", "run.resume=true", "cluster.deadline_s=5") == one
    assert difference(one, of("model.path=model", "train.steps=7")) == "train.steps is 7, was 45"
    (weights / "a.bin").write_bytes(b"c")
    assert difference(one, of("model.path=model")) == "what model.path names has changed"
    rows.write_text("{}\n{}\n")
    assert of("model.path=model")["task.path"] != one["task.path"]
    prompt = "Think. " * 1000  # longer than a path may be
    assert of(f"task.system_prompt='{prompt}'")["task.system_prompt"] == prompt
    assert of("model.path=Qwen/Qwen3-0.6B")["model.path"] == "Qwen/Qwen3-0.6B"


def test_what_can_only_be_a_path_has_to_be_there(tmp_path):
    check_inputs(
        {
            "model.path": "Qwen/Qwen3-0.6B",
            "task.path": None,
            "run.dir": "/no/such",
            "x.path": str(tmp_path),
            "a.b": "~x " * 2000,
            "train.steps": 3,
        }
    )
    for key, value in (("model.path", "./model"), ("mixture.b.path", "rows.parquet"), ("rewards.judge_model", "~/no_such_model")):
        with pytest.raises(UserError, match=f"{key}=.*: there is no such file or folder"):
            check_inputs({key: value})
