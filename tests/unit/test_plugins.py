"""Entry points: what is found, and the one line a user gets for each thing that can be wrong with a plug-in."""

import subprocess
import sys
import time

import pytest

from posttrain import plugins
from posttrain.errors import UserError

GROUP = "posttrain.rewards"
SOURCE = "class Half:\n    pass\n"


def test_lists_and_loads_what_a_distribution_registers(install):
    install("half-rewards", {"half": "half_rewards:Half"}, half_rewards=SOURCE)
    assert "half" in plugins.names(GROUP)
    assert plugins.load(GROUP, "half").__name__ == "Half"
    assert plugins.describe(GROUP, "half") == "posttrain.rewards: half = half_rewards:Half (from half-rewards 1.0)"


def test_names_are_of_the_group_alone(install):
    install("half-rewards", {"half": "half_rewards:Half"})
    assert "half" not in plugins.names("posttrain.algorithms")
    assert plugins.names("posttrain.no_such_group") == []


def test_listing_imports_no_plugin(install):
    install("half-rewards", {"half": "half_rewards:Half"}, half_rewards="raise RuntimeError('imported')")
    plugins.names(GROUP)
    assert "half_rewards" not in sys.modules


def test_an_unknown_name_is_answered_with_the_nearest(install):
    install("half-rewards", {"half": "half_rewards:Half"})
    with pytest.raises(UserError) as raised:
        plugins.load(GROUP, "halve")
    assert str(raised.value) == "unknown name 'halve' in posttrain.rewards; did you mean half?"


def test_two_distributions_under_one_name_are_both_named(install):
    install("half-rewards", {"half": "half_rewards:Half"}, half_rewards=SOURCE)
    install("other-half", {"half": "other_half:Half"}, version="2.1")
    with pytest.raises(UserError) as raised:
        plugins.load(GROUP, "half")
    line = str(raised.value)
    assert "half is registered more than once" in line
    assert "half_rewards:Half (from half-rewards 1.0), other_half:Half (from other-half 2.1)" in line
    assert "\n" not in line


def test_two_distributions_clash_even_over_the_same_value(install):
    install("half-rewards", {"half": "half_rewards:Half"}, half_rewards=SOURCE)
    install("half-rewards-fork", {"half": "half_rewards:Half"})
    with pytest.raises(UserError, match=r"half-rewards 1\.0.*half-rewards-fork 1\.0"):
        plugins.load(GROUP, "half")


@pytest.mark.parametrize("name", ["half-rewards", "Half_Rewards"])
def test_a_distribution_found_twice_is_no_clash(install, name):
    install("half-rewards", {"half": "half_rewards:Half"}, site="lib", half_rewards=SOURCE)
    install(name, {"half": "half_rewards:Half"}, site="lib64")
    assert plugins.load(GROUP, "half").__name__ == "Half"
    assert plugins.names(GROUP).count("half") == 1


@pytest.mark.parametrize(
    ("source", "original"),
    [
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line second line"),
        ("Quarter = 1", "AttributeError: module 'half_rewards' has no attribute 'Half'"),
        ("def broken(:", "SyntaxError: invalid syntax"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_the_original_error(install, source, original):
    install("half-rewards", {"half": "half_rewards:Half"}, half_rewards=source)
    with pytest.raises(UserError) as raised:
        plugins.load(GROUP, "half")
    line = str(raised.value)
    assert line.startswith("posttrain.rewards: half = half_rewards:Half (from half-rewards 1.0) cannot be imported: " + original)
    assert "\n" not in line
    assert type(raised.value.__cause__).__name__ == original.partition(":")[0]


def test_listing_takes_no_time_and_loads_nothing_heavy():
    started = time.perf_counter()
    plugins.names(GROUP)
    assert time.perf_counter() - started < 0.5
    program = (
        "import sys, posttrain.plugins as p; p.names('posttrain.rewards'); print(*{'torch', 'ray', 'vllm', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.strip() == ""
