"""Who may import whom. A module that is in no layer fails: place it, after thinking about who may use it."""

import ast
import configparser
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

# A module imports its own layer and those below; lazily inside functions too, except that commands and algorithms may
# reach everything there. A name covers what is inside it; the longest that fits counts.
LAYERS: dict[str, int] = {
    **dict.fromkeys(("posttrain", "posttrain.types", "posttrain.errors"), 1),
    **dict.fromkeys(("posttrain.config", "posttrain.configs", "posttrain.plugins", "posttrain.metrics", "posttrain.data"), 2),
    **dict.fromkeys(("posttrain.files", "posttrain.vision", "posttrain.builtin_vision"), 2),
    **dict.fromkeys(("posttrain.files", "posttrain.frames", "posttrain.sandbox", "posttrain.strict_json"), 2),
    **dict.fromkeys(("posttrain.lanes", "posttrain.lane_process", "posttrain.tool_calls"), 2),
    **dict.fromkeys(("posttrain.packing", "posttrain.stats", "posttrain.episodes", "posttrain.rundir", "posttrain.builtin_models"), 2),
    # What engine, learner and driver say to each other: these know none of the three.
    **dict.fromkeys(("posttrain.weights", "posttrain.worker", "posttrain.learner_spec", "posttrain.torchvision_cpu"), 2),
    **dict.fromkeys(("posttrain.rewards", "posttrain.rollout", "posttrain.algorithms.losses", "posttrain.algorithms.advantages"), 3),
    **dict.fromkeys(("posttrain.algorithms.corrections", "posttrain.algorithms.divergences"), 3),
    **dict.fromkeys(
        ("posttrain.attention", "posttrain.head", "posttrain.model", "posttrain.learner", "posttrain.cluster", "posttrain.checkpoint"), 4
    ),
    **dict.fromkeys(("posttrain.attention_blocks", "posttrain.sequence_parallel"), 4),
    **dict.fromkeys(("posttrain.teacher", "posttrain.teacher_head", "posttrain.teacher_inputs", "posttrain.served_teacher"), 4),
    **dict.fromkeys(("posttrain.pixels", "posttrain.prefix_tree", "posttrain.sight"), 4),
    **dict.fromkeys(("posttrain.fleet", "posttrain.inputs", "posttrain.console", "posttrain.judge_service"), 4),
    "posttrain.rewards.reward_model": 4,  # it renders and scores as a reward model's training does
    "posttrain.algorithms": 5,
    "posttrain.curate": 6,
    **dict.fromkeys(("posttrain.run", "posttrain.help", "posttrain.mistakes", "posttrain.doctor"), 6),
    **dict.fromkeys(("posttrain.fingerprint", "posttrain.processor", "posttrain.seeds"), 2),
    **dict.fromkeys(("posttrain.pipeline", "posttrain.pipeline_commands", "posttrain.pipeline_report", "posttrain.pipeline_run"), 6),
}
LAZY_AT_WILL = ("posttrain.run", "posttrain.algorithms")
# These three meet in layer 4 and above only.
APART = ("posttrain.rewards", "posttrain.rollout", "posttrain.algorithms")
OWNERS = {
    "vllm": {"posttrain.rollout.engine", "posttrain.rollout.direct_load"},
    "deepspeed": {"posttrain.learner", "posttrain.sequence_parallel"},
    "ray": {"posttrain.cluster", "posttrain.worker", "posttrain.rollout.engine", "posttrain.learner"},
    "datasets": {"posttrain.data.hub"},
    "transformers": {
        *("posttrain.attention", "posttrain.model", "posttrain.pixels", "posttrain.builtin_models", "posttrain.builtin_vision")
    },
    "hydra": {"posttrain.run", "posttrain.mistakes"},
}
EXTRAS = {"cpu": "cpu.txt", "cuda": "cuda.txt"}
TORCH_IN_LOW_LAYERS = {"posttrain.packing", "posttrain.weights"}


def imports(tree: ast.Module) -> Iterator[tuple[str, bool, int]]:
    """(imported name, whether inside a function, line); `from a import b` gives a.b."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, lazy, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"line {child.lineno}: relative import"
                yield from ((f"{child.module}.{alias.name}", lazy, child.lineno) for alias in child.names)
            yield from visit(child, lazy or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    yield from visit(tree, lazy=False)


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def layer(name: str) -> int:
    """0 for a module that was not placed."""
    fitting = [known for known in LAYERS if is_within(name, known) and (known != "posttrain" or name == "posttrain")]
    return LAYERS[max(fitting, key=len)] if fitting else 0


def own(name: str, modules: set[str]) -> str | None:
    """The module of ours behind an imported name, None for others' and for what a package holds itself."""
    if not is_within(name, "posttrain"):
        return None
    return name if name in modules else name.rpartition(".")[0]


def refused(source, modules: set[str]) -> Iterator[str]:
    for name, lazy, line in imports(source.tree):
        where = f"{source.path}:{line} imports {name}"
        top = name.partition(".")[0]
        target = own(name, modules)
        free = lazy and any(is_within(source.module, package) for package in LAZY_AT_WILL)
        if top in OWNERS and source.module not in OWNERS[top]:
            yield f"{where}: {top} belongs to {', '.join(sorted(OWNERS[top]))}"
        if top in ("torch", "transformers") and not lazy and layer(source.module) <= 2 and source.module not in TORCH_IN_LOW_LAYERS:
            yield f"{where}: layers 1 and 2 do without {top}"
        if target is None:
            continue
        if layer(target) > layer(source.module) and not free:
            yield f"{where}: layer {layer(target)} from layer {layer(source.module)}"
        sides = [next((side for side in APART if is_within(module, side)), None) for module in (source.module, target)]
        if None not in sides and sides[0] != sides[1] and layer(source.module) == 3:
            yield f"{where}: these two meet in the layers above"


def test_every_module_is_in_a_layer(sources) -> None:
    assert [source.module for source in sources if source.module and layer(source.module) == 0] == []


def test_layers_and_owners_are_kept(sources) -> None:
    packaged = [source for source in sources if source.module]
    modules = {source.module for source in packaged}
    assert [line for source in packaged for line in refused(source, modules)] == []


def test_every_import_is_a_declared_dependency(sources, root: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    declared = setup["options"]["install_requires"] + setup["options.extras_require"]["cpu"] + setup["options.extras_require"]["cuda"]
    known = {re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r"^[A-Za-z][\w.-]*", declared, re.MULTILINE)}
    providers = importlib.metadata.packages_distributions()
    undeclared = set()
    for source in (source for source in sources if source.module):
        for name, _, line in imports(source.tree):
            top = name.partition(".")[0]
            distributions = {re.sub(r"[-_.]+", "-", found).lower() for found in providers.get(top, [top])}
            if top != "posttrain" and top not in sys.stdlib_module_names and not distributions & known:
                undeclared.add(f"{source.path}:{line} imports {top} of {', '.join(sorted(distributions))}")
    assert sorted(undeclared) == []


def test_pins_cover_the_dependencies_and_agree(root: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    texts = {name: (root / "requirements" / name).read_text() for name in EXTRAS.values()}
    pins = {name: dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)) for name, text in texts.items()}
    for extra, name in EXTRAS.items():
        lines = setup["options"]["install_requires"].split() + setup["options.extras_require"][extra].split()
        wanted = [Requirement(line) for line in lines]
        assert [str(r) for r in wanted if pins[name].get(r.name, "") not in r.specifier] == [], f"requirements/{name}"
    shared = pins["cpu.txt"].keys() & pins["cuda.txt"].keys()
    assert {name: pins["cuda.txt"][name] for name in shared} == {name: pins["cpu.txt"][name] for name in shared}
