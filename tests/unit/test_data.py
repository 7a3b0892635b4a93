"""Sources: stable prompts, a split that nothing but content moves, one line an error. The cursor: complete epochs, exact resume."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.config import TaskConfig
from posttrain.data import sources
from posttrain.data.cursor import PromptCursor
from posttrain.data.sources import load_task
from posttrain.errors import UserError
from posttrain.rewards.reasoning_gym import ReasoningGym
from posttrain.types import Episode, Turn

ONE_DIGIT = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def rows(count, start=0):
    return [{"messages": [{"role": "user", "content": f"What is {i} + {i}?"}], "answer": str(2 * i)} for i in range(start, start + count)]


def file_task(path, **keys):
    return TaskConfig(name="sums", source="file", path=str(path), **keys)


def gym_task(**keys):
    return TaskConfig(**{"name": "arithmetic", "family": "chain_sum", "params": ONE_DIGIT, "num_examples": 300} | keys)


@pytest.fixture
def jsonl(tmp_path):
    def write(*lines):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return path

    return write


@pytest.fixture
def parquet(tmp_path):
    def write(table_rows):
        path = tmp_path / "rows.parquet"
        pq.write_table(pa.Table.from_pylist(table_rows), path)
        return path

    return write


def halves(data):
    return {prompt.id: half for half, prompts in (("train", data.train), ("heldout", data.heldout)) for prompt in prompts}


def refusal(task):
    with pytest.raises(UserError) as raised:
        load_task(task)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Files


def test_rows_become_prompts_in_the_order_of_the_file(jsonl):
    data = load_task(file_task(jsonl(*rows(40))))
    assert data.name == "sums" and len(data.train) + len(data.heldout) == 40
    places = [int(prompt.reference) for prompt in data.train]
    assert places == sorted(places)
    first = data.train[0]
    assert first.task == "sums" and first.id.startswith("sums/") and len(first.id) == len("sums/") + 16
    assert first.messages == [{"role": "user", "content": f"What is {places[0] // 2} + {places[0] // 2}?"}]


def test_ids_are_what_they_were(jsonl):
    """sha256 of [{"content":"What is 0 + 0?","role":"user"}] begins 0ac1..., of 3 + 3 be02...: compared runs count on it."""
    data = load_task(file_task(jsonl(*rows(40))))
    assert halves(data)["sums/0ac18180613ea2ff"] == "heldout"
    assert halves(data)["sums/be02d4e7f191c23e"] == "train"


def test_a_prompt_string_is_one_user_message(jsonl, parquet):
    long = [{"messages": [{"role": "user", "content": f"{i}?"}], "answer": i} for i in range(30)]
    short = [{"prompt": f"{i}?", "answer": i} for i in range(30)]
    expected = load_task(file_task(jsonl(*long)))
    assert load_task(file_task(jsonl(*short))) == expected
    assert load_task(file_task(parquet(short))) == expected


def test_parquet_and_jsonl_give_the_same_prompts(jsonl, parquet):
    mixed = rows(30)
    mixed[3]["messages"] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "3 + 3?"},
        {"role": "assistant", "content": "6", "name": "one"},
        {"role": "user", "content": "and 3 more?"},
    ]
    assert load_task(file_task(parquet(mixed))) == load_task(file_task(jsonl(*mixed)))


def test_content_may_be_typed_parts_and_show_images(jsonl, parquet, picture, tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.png").write_bytes(picture(i, 40 + i, 20).data)
    parts = [[{"type": "text", "text": "What?"}, {"type": "image", "image": f"{i}.png"}] for i in range(30)]
    with_parts = [{"messages": [{"role": "user", "content": content}], "answer": "1"} for content in parts]
    data = load_task(file_task(parquet(with_parts)))
    assert data == load_task(file_task(jsonl(*with_parts)))
    assert data.train[0].messages[0]["content"][0]["type"] == "text"
    shown = [prompt.images for prompt in (*data.train, *data.heldout)]
    assert sorted(image.width for (image,) in shown) == [*range(40, 70)]  # one question about thirty pictures is thirty prompts
    (tmp_path / "7.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"line 8: image 0 is broken: it is no picture of a known format"):
        load_task(file_task(jsonl(*with_parts)))


def test_own_ids_are_kept(jsonl):
    data = load_task(file_task(jsonl(*({"id": i, **row} for i, row in enumerate(rows(30))))))
    assert halves(data).keys() == {f"sums/{i}" for i in range(30)}


def test_blank_lines_a_byte_order_mark_and_unicode_line_ends_are_no_mistake(jsonl):
    first, *rest = rows(30)
    first["messages"][0]["content"] = "one\N{LINE SEPARATOR}two"
    lines = ["\ufeff" + json.dumps(first, ensure_ascii=False), "", *rest, "  "]
    assert len(halves(load_task(file_task(jsonl(*lines))))) == 30


def test_identical_messages_are_kept_once_and_the_first_counts(jsonl):
    again = {**rows(1)[0], "answer": "another"}
    data = load_task(file_task(jsonl(*rows(30), *rows(30), again)))
    assert len(halves(data)) == 30
    assert "another" not in {prompt.reference for prompt in data.train + data.heldout}


def test_a_system_prompt_moves_no_prompt_and_renames_none(jsonl):
    path = jsonl(*rows(40))
    plain, with_system = load_task(file_task(path)), load_task(file_task(path, system_prompt="Be brief."))
    assert halves(plain) == halves(with_system)
    assert with_system.train[0].messages == [{"role": "system", "content": "Be brief."}, *plain.train[0].messages]


@given(order=st.permutations(list(range(60))), kept=st.integers(20, 60))
@settings(max_examples=30)
def test_neither_order_nor_other_rows_move_a_prompt(tmp_path_factory, order, kept):
    everything = rows(60)
    folder = tmp_path_factory.mktemp("split")
    for name, chosen in (("all", everything), ("some", [everything[i] for i in order[:kept]] + rows(5, start=60))):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, chosen)))
    all_halves, some_halves = (halves(load_task(file_task(folder / f"{name}.jsonl"))) for name in ("all", "some"))
    common = all_halves.keys() & some_halves.keys()
    assert len(common) == kept
    assert all(all_halves[name] == some_halves[name] for name in common)


def test_the_fraction_is_about_kept_and_a_larger_one_only_adds(jsonl):
    path = jsonl(*rows(2000))
    small, large = (load_task(file_task(path, heldout_fraction=fraction)) for fraction in (0.2, 0.5))
    assert 0.17 < len(small.heldout) / 2000 < 0.23
    assert 0.47 < len(large.heldout) / 2000 < 0.53
    assert {prompt.id for prompt in small.heldout} < {prompt.id for prompt in large.heldout}


GOOD = rows(1)[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": [', "line 2: not JSON: Expecting value"),
        ("[1, 2]", "line 2: got b'[1, 2]"),
        ({"messages": GOOD["messages"], "anwser": "4"}, "line 2: no `answer`; there is: anwser, messages"),
        ({"messages": GOOD["messages"], "answer": None}, "line 2: no `answer`; there is: messages"),
        ({"question": "?", "answer": "4"}, "line 2: no `messages` or `prompt`; there is: answer, question"),
        ({"prompt": "?", **GOOD}, "line 2: both `messages` and `prompt`"),
        ({"messages": [], "answer": "4"}, "line 2: `messages` is [], expected a list"),
        ({"messages": "2 + 2?", "answer": "4"}, "line 2: `messages` is '2 + 2?', expected a list"),
        ({"messages": ["2 + 2?"], "answer": "4"}, "line 2: message 0 is '2 + 2?', expected {role, content}"),
        ({"messages": [{"role": "usr", "content": "?"}], "answer": "4"}, "line 2: message 0 has role 'usr'; did you mean user?"),
        ({"messages": [{"content": "?"}], "answer": "4"}, "line 2: message 0 has role None"),
        ({"messages": [{"role": "user", "content": 5}], "answer": "4"}, "line 2: message 0 has content 5, expected a text"),
        ({"messages": [{"role": "user"}], "answer": "4"}, "line 2: message 0 has content None, expected a text"),
        ({"messages": [{"role": "user", "content": [{"text": "?"}]}], "answer": "4"}, "expected a text or a list of typed parts"),
        ({"prompt": "", "answer": "4"}, "line 2: message 0 has content '', expected a text"),
        (
            {"messages": [*GOOD["messages"], {"role": "assistant", "content": "0"}], "answer": "0"},
            "line 2: the last message is the assistant's",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_line(jsonl, line, message):
    path = jsonl(GOOD, line)
    told = refusal(file_task(path))
    assert told.startswith(f"{path} ") and message in told


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff", "answer": 1}\n')
    assert f"{path} line 2: not JSON: 'utf-8" in refusal(file_task(path))


def test_a_parquet_row_is_named_across_batches(parquet, tmp_path):
    bad = rows(66_000)  # more than the 65,536 of a batch
    bad[65_600]["messages"] = [{"role": "robot", "content": "?"}]
    assert "rows.parquet row 65601: message 0 has role 'robot'" in refusal(file_task(parquet(bad)))


def test_a_parquet_file_without_the_columns_or_of_another_kind(parquet, tmp_path):
    assert "rows.parquet: no `answer`; there is: messages" in refusal(file_task(parquet([{"messages": GOOD["messages"]}])))
    (tmp_path / "broken.parquet").write_text("not parquet at all")
    assert "broken.parquet: not readable as Parquet after row 0" in refusal(file_task(tmp_path / "broken.parquet"))


def test_one_id_for_two_prompts_is_refused(jsonl):
    path = jsonl(*({"id": "same", **row} for row in rows(2)))
    assert refusal(file_task(path)) == f"{path} line 2: id 'same' is taken by other messages, of {path} line 1"


def test_two_system_prompts_are_refused(jsonl):
    path = jsonl({"messages": [{"role": "system", "content": "Be long."}, *GOOD["messages"]], "answer": "0"})
    assert "line 1: has a system message of its own" in refusal(file_task(path, system_prompt="Be brief."))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "there is no such file"),
        ("rows.csv", "a,b\n", "expected a file that ends in .jsonl or .parquet"),
        ("empty.jsonl", "", "the file holds no rows"),
        ("blank.jsonl", "\n \n", "the file holds no rows"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    told = refusal(file_task(tmp_path / name))
    assert told.startswith(f"task.path={tmp_path / name}: ") and message in told


@pytest.mark.parametrize(("fraction", "half"), [(1e-9, "held-out"), (1 - 1e-9, "training")])
def test_an_empty_half_is_refused(jsonl, fraction, half):
    told = refusal(file_task(jsonl(*rows(5)), heldout_fraction=fraction))
    assert f"task sums: the {half} half is empty: 5 distinct prompts" in told


def test_an_unknown_source_is_refused():
    assert "task.source=fil: did you mean file?" in refusal(TaskConfig(name="sums", source="fil"))


# reasoning-gym


def test_a_family_gives_distinct_prompts_that_its_scorer_understands():
    data = load_task(gym_task(num_examples=2000, system_prompt="Be brief."))
    prompts = data.train + data.heldout
    assert len({prompt.messages[-1]["content"] for prompt in prompts}) == len(prompts) == 200
    for prompt in prompts[:10]:
        turn = Turn(token_ids=[1], logprobs=[0.0], text=prompt.reference, stop_reason="stop", policy_version=0)
        assert ReasoningGym().score(prompt, Episode(prompt_id=prompt.id, turns=[turn], status="complete")) == 1.0
        assert [message["role"] for message in prompt.messages] == ["system", "user"]
        assert prompt.metadata["dataset"] == "chain_sum" and prompt.metadata["entry"]["answer"] == prompt.reference


@pytest.mark.parametrize("family", ["isomorphic_strings", "list_functions"])  # sets of strings; Python's global generator
def test_every_process_draws_the_same_prompts(family, monkeypatch):
    drawn = []
    for hash_seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
        drawn.append(load_task(TaskConfig(name="task", family=family, num_examples=30)))
    assert drawn[0] == drawn[1]


def test_more_examples_move_no_prompt():
    few, many = (halves(load_task(gym_task(num_examples=count))) for count in (50, 100))
    assert few.items() < many.items()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"family": "chain_sun"}, "task.family=chain_sun: reasoning_gym has no such family; did you mean chain_sum"),
        ({"family": None}, "task.family=None: reasoning_gym has no such family; known: ab, "),
        ({"params": {"min_term": 2}}, "task.params.min_term: chain_sum has no such parameter; did you mean min_terms"),
        ({"params": {"min_terms": 3, "max_terms": 2}}, "failed: AssertionError: max_terms must be >= min_terms"),
        ({"params": {"min_terms": "two"}}, "failed: TypeError: "),
        ({"params": {"seed": 1}}, "task.params.seed cannot be set"),
        ({"params": {"size": 10}}, "task.params.size cannot be set; instead of it there is task.num_examples"),
    ],
)
def test_a_family_that_cannot_be_drawn_is_told_in_one_line(keys, message):
    assert message in refusal(gym_task(**keys))


def test_a_family_that_never_ends_is_named(monkeypatch):
    monkeypatch.setattr(sources, "DRAW_DEADLINE_S", 0.05)
    assert "drawing 300 examples of chain_sum" in refusal(gym_task())


def test_loading_imports_nothing_heavy(jsonl):
    program = "import sys, posttrain.data.sources, posttrain.data.cursor; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.split())
    assert not loaded & {"torch", "ray", "vllm", "transformers", "datasets", "pandas", "reasoning_gym"}


# The cursor

CURSORS = {"num_prompts": st.integers(1, 40), "seed": st.integers(0, 2**63)}
SIZES = st.lists(st.integers(0, 50), max_size=12)


@given(**CURSORS, size=st.integers(1, 40), num_batches=st.integers(1, 20))
def test_a_batch_never_holds_a_prompt_twice_where_that_is_possible(num_prompts, seed, size, num_batches):
    cursor = PromptCursor(num_prompts, seed)
    for _ in range(num_batches):
        batch = cursor.take(size)
        assert len(batch) == size
        assert size > num_prompts or len(set(batch)) == size


@given(**CURSORS, sizes=SIZES)
def test_every_epoch_uses_every_prompt_once(num_prompts, seed, sizes):
    cursor = PromptCursor(num_prompts, seed)
    counts = [0] * num_prompts
    for size in sizes:
        for position in cursor.take(size):
            counts[position] += 1
    state = cursor.state()
    num_deferred = len(state) - 4
    assert sum(counts) == state["epoch"] * num_prompts + state["offset"] - num_deferred
    assert set(counts) <= {state["epoch"], state["epoch"] + 1}


@given(**CURSORS, before=SIZES, after=SIZES)
def test_a_restored_cursor_goes_on_identically(num_prompts, seed, before, after):
    cursor = PromptCursor(num_prompts, seed)
    for size in before:
        cursor.take(size)
    saved = json.loads(json.dumps(cursor.state()))
    assert all(type(value) is int for value in saved.values())
    restored = PromptCursor(num_prompts, seed)
    restored.take(3)  # where it was before does not matter
    restored.restore(saved)
    assert [restored.take(size) for size in after] == [cursor.take(size) for size in after]
    assert restored.state() == cursor.state()


@given(num_prompts=st.integers(1, 40), seed=st.integers(0, 1000))
def test_an_epochs_order_follows_from_seed_and_epoch_alone(num_prompts, seed):
    whole, single = PromptCursor(num_prompts, seed), PromptCursor(num_prompts, seed)
    for _ in range(3):
        assert sorted(epoch := whole.take(num_prompts)) == list(range(num_prompts))
        assert epoch == [single.take(1)[0] for _ in range(num_prompts)]


def test_a_prompt_at_an_epochs_border_is_put_off_to_the_next_batch():
    cursor, plain = PromptCursor(5, seed=3), PromptCursor(5, seed=3)
    first, second = plain.take(5), plain.take(5)
    batches = [cursor.take(4), cursor.take(4)]
    assert batches[0] == first[:4]
    left = [position for position in second if position != first[4]]
    assert batches[1] == [first[4], *left[:3]]
    assert sorted(batches[1][1:] + cursor.take(2)) == [0, 1, 2, 3, 4]


def test_epochs_and_seeds_differ():
    cursor = PromptCursor(50, seed=0)
    orders = [tuple(cursor.take(50)) for _ in range(3)] + [tuple(PromptCursor(50, seed=1).take(50))]
    assert len(set(orders)) == 4


@pytest.mark.parametrize(("num_prompts", "seed"), [(10, 1), (11, 0)])
def test_a_state_of_other_data_or_another_seed_is_refused(num_prompts, seed):
    with pytest.raises(UserError) as raised:
        PromptCursor(10, 0).restore(PromptCursor(num_prompts, seed).state())
    assert f"for {num_prompts} prompts and run.seed={seed}, but this run has 10 prompts and run.seed=0" in str(raised.value)


def test_no_prompts_are_refused():
    with pytest.raises(UserError, match="there are 0 prompts"):
        PromptCursor(0, 0)
