"""The mutation tool on notebooks small enough to know what every mutant does."""
import ast

import mutate
import nbformat
import pytest
from conftest import shown

CLIP = '''#| exports
def clip(x, low=0, high=4):
    "Keep x within low and high."
    if x < low:
        return low
    return high if x > high else x


def area(w, h):
    return w * h - 1'''
GOOD = "assert [clip(x) for x in (-1, 0, 2, 4, 9)] == [0, 0, 2, 4, 4] and clip(0.5) == 0.5 and clip(4.5) == 4\nassert area(3, 5) == 14"
BOUNDARY = ["clip: x < low -> x <= low", "clip: x > high -> x >= high"]  # at the boundary both sides are the same


def page_of(draft, *cells, **meta):
    d = draft("diffusion/01_tiny.ipynb").prose("# Tiny")
    for source in cells:
        d.code(source, shown("eq-tiny") if "assert" in source else [])
    return d.save(**meta)


def run(page, capsys, *options):
    "(exit status, what was printed, the notebook's record)"
    status = mutate.main([str(page.path), *map(str, options)])
    return status, capsys.readouterr().out, mutate.Page(page.path).meta.get("mutation")


@pytest.fixture(autouse=True)
def same_environment(monkeypatch):
    "`main` sets variables of its process: the tests give them back."
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MPLBACKEND", "CUDA_VISIBLE_DEVICES", "TQDM_MONITOR_INTERVAL", "HF_HUB_OFFLINE",
                 "PYTHONHASHSEED", "TOKENIZERS_PARALLELISM", "PYTHONWARNINGS"):
        monkeypatch.setenv(name, "0")


def changes(source):
    return [m.change for m in mutate.mutants_of([(0, source)])]


@pytest.mark.parametrize("source, expected", [
    ("y = -x", ["-x -> x"]),
    ("y = a + b", ["a + b -> a - b", "a + b -> a", "a + b -> b"]),
    ("y = a - b", ["a - b -> a + b", "a - b -> a"]),
    ("y = a * b", ["a * b -> a / b", "a * b -> a", "a * b -> b"]),
    ("y = a / b", ["a / b -> a * b", "a / b -> a"]),
    ("y = a ** b", ["a ** b -> a * b"]),
    ("y = a @ b", ["a @ b -> b @ a"]),
    ("y += x", ["y += x -> pass", "y += x -> y -= x"]),
    ("y = a < b", ["a < b -> a <= b"]),
    ("y = a >= b == c", ["a >= b == c -> a > b == c", "a >= b == c -> a >= b != c"]),
    ("y = a and b", ["a and b -> a or b"]),
    ("y = not a", ["not a -> a"]),
    ("y = 0", ["y = 0 -> y = 1"]),
    ("y = 2.0", ["y = 2.0 -> y = 2.2"]),
    ("y = f(x, True)", ["f(x, True) -> f(True, x)", "f(x, True) -> f(x, False)"]),
    ("y = f(a, b, c)", ["f(a, b, c) -> f(b, a, c)"]),
    ("y = x.min()", ["x.min -> x.max"]),
    ("y = torch.cumsum(x)", ["torch.cumsum -> torch.cumprod"]),
    ("y = range(n)", ["range(n) -> range(n - 1)"]),
    ("y = x[i]", ["x[i] -> x[i + 1]"]),
    ("y = x[i:j]", ["x[i:j] -> x[i + 1:j]", "x[i:j] -> x[i:j + 1]"]),
    ("if a:\n    f()", ["a -> not a"]),
    ("y = a if not b else c", ["not b -> b"]),
    ("y = [x for x in xs if x]", ["[x for x in xs if x] -> [x for x in xs if not x]"]),
    ("y = a - b\nz = a - b", ["a - b -> a + b", "a - b -> a", "a - b -> a + b (2)", "a - b -> a (2)"]),
])
def test_what_is_changed(source, expected):
    assert changes(source) == expected


@pytest.mark.parametrize("source", [
    "import os",
    "from a import b",
    "def f(x: Float[Tensor, 'n 2'] = None, *, progress=True, title=1) -> Int[Tensor, '1']:\n    '3 + 4'\n    return x",
    "x: Annotated[int, 3]",
    "@autotune(configs=[Config(2)])\ndef f(x):\n    return x",
    "def f(x):\n    raise ValueError(x + 1, f'{x + 1}')",
    "require(x, 'x', x + 1, f'at most {x - 1}')",
    "y = f'{x + 1}'",
    "y = x + 'text'",
    "print(x + 1)",
    "Numbers = Literal[1, 2]",
    "f(x, verbose=True)",
    "tiny = 1e-12",
    "isinstance(x, T)",
])
def test_what_is_not(source):
    assert changes(source) == []


def test_the_condition_of_require_is_changed():
    assert changes("require(x > 0, 'x', x + 1, 'more')") == ["x > 0 -> x >= 0", "x > 0 -> x > 1"]


def test_a_mutant_is_one_change_in_the_source_as_written():
    source = "def f(x):  # é\n    return (x  # here\n            + 1)  # and 'there'"
    found = mutate.mutants_of([(3, source)])
    assert len({m.source for m in found}) == len(found) == 4
    for m in found:
        assert ast.dump(ast.parse(m.source)) != ast.dump(ast.parse(source)) and "# é" in m.source and m.cell == 3 and m.function == "f"
    assert "-    return (x  # here" in found[0].diff() and found[0].line == 2


def test_methods_are_named_and_nested_functions_are_not():
    found = mutate.mutants_of([(0, "class A:\n    def f(self):\n        def g():\n            return -x\n        return g")])
    assert [m.key for m in found] == ["A.f: -x -> x"]


def test_a_sample_is_as_large_as_wanted_distinct_spread_and_repeatable():
    source = "def long(x):\n    return " + " + ".join("abcdefgh") + "\ndef short(x):\n    return -x\ndef third(x):\n    return x * y"
    every = mutate.mutants_of([(0, source)])
    for n in (3, 10, 20):
        chosen = mutate.sample(every, n, 0)
        assert len({m.source for m in chosen}) == n and chosen == mutate.sample(every, n, 0)
        assert {m.function for m in chosen} == {"long", "short", "third"}
    assert mutate.sample(every, 10, 0) != mutate.sample(every, 10, 1)
    assert mutate.sample(every, 1000, 0) == every


def test_a_good_check_kills_and_the_score_is_recorded(draft, capsys):
    page = page_of(draft, "#| default_exp diffusion.tiny", CLIP, GOOD, equivalent_mutants=[dict(mutant=k, reason="equal at the boundary") for k in BOUNDARY])
    before = nbformat.read(page.path, 4)
    status, out, score = run(page, capsys, "-n", 100)
    n = len(mutate.mutants_of(page.exports()))
    assert status == 0 and f"killed {n - 2} of {n - 2} (100%" in out and "equal at the boundary" in out
    assert score == dict(killed=n - 2, tried=n, equivalent=2, seed=0, n=100, exports_hash=page.exports_hash)
    after = nbformat.read(page.path, 4)
    assert after.cells == before.cells and after.metadata.ml_notes.code_hash == before.metadata.ml_notes.code_hash
    assert run(page, capsys, "-n", 100)[1] == out  # the report too is the same each time


def test_a_vacuous_check_kills_nothing(draft, capsys):
    page = page_of(draft, CLIP, "assert clip(3) is not None")
    status, out, score = run(page, capsys, "-n", 6, "--seed", 3)
    assert status == 1 and score["killed"] == 0 and score["tried"] == 6 and out.count("SURVIVED") == 6
    assert "in area, cell" in out and "+    return" in out


def test_a_false_or_stale_claim_of_equivalence_is_an_error(draft, capsys):
    claims = [*BOUNDARY, "area: w * h - 1 -> w * h + 1", "area: gone -> away"]
    page = page_of(draft, CLIP, GOOD, equivalent_mutants=[dict(mutant=k, reason="so") for k in claims])
    status, out, _ = run(page, capsys, "-n", 100)
    assert status == 1 and "listed as equivalent, but killed: area: w * h - 1 -> w * h + 1" in out
    assert "there is no such mutant: area: gone -> away" in out


def test_list_and_only_change_nothing(draft, capsys):
    page = page_of(draft, CLIP, GOOD)
    before = page.path.read_bytes()
    status, out, _ = run(page, capsys, "--list", "-n", 5)
    assert status == 0 and out.count(" -> ") == 5
    status, out, _ = run(page, capsys, "--only", "area:")
    assert status == 0 and "clip:" not in out and "area: w * h - 1 -> w * h + 1   [cell 2: AssertionError" in out
    assert page.path.read_bytes() == before


def test_a_mutant_that_runs_away_dies_or_exits_is_killed(draft, monkeypatch):
    monkeypatch.setattr(mutate, "GRACE", 1.0)
    page = page_of(draft, "import os, sys, signal", "#| exports\ndef f(n):\n    while n > 0:\n        n -= 1\n    return n",
                   "#| exports\ndef g(x):\n    if x < 0:\n        os.kill(os.getpid(), signal.SIGKILL)\n    if x > 5:\n        sys.exit(0)\n    return x", "f(3), g(0), g(5)")
    score = mutate.run(page, mutate.mutants_of(page.exports()))
    fate = {key: m["status"] for key, m in score.fate.items()}
    assert fate["f: n -= 1 -> pass"] == fate["f: n -= 1 -> n += 1"] == "timeout"
    assert score.fate["g: x < 0 -> x <= 0"]["by"] == "the process died (-9)" and fate["g: x < 0 -> x <= 0"] == "killed"
    assert "SystemExit" in score.fate["g: x > 5 -> x >= 5"]["by"] and fate["f: n > 0 -> n > 1"] == "survived"


def test_the_page_has_to_pass_and_its_experiment_is_not_run(draft, capsys):
    d = draft("diffusion/01_tiny.ipynb").code(CLIP).code(GOOD).code("#| eval: false\n1 / 0").prose("## Experiment").code("1 / 0").code("#| exports\ndef late(x):\n    return -x")
    _, out, score = run(d.save(), capsys, "-n", 100)
    assert "exported cells [5] come after" in out and "late:" not in out and score["tried"] == len(mutate.mutants_of([(0, CLIP)])) == score["killed"] + 2
    with pytest.raises(SystemExit, match="without any mutation, cell 2: ZeroDivisionError"):
        run(page_of(draft, CLIP.replace("#| exports", "#| export"), "1 / 0"), capsys)


def test_a_page_that_imports_itself_is_refused(draft, capsys):
    for source in ("from ml_notes.diffusion.tiny import clip", "import ml_notes.diffusion.tiny as t", "from ml_notes.diffusion import tiny"):
        status, out, _ = run(page_of(draft, "#| default_exp diffusion.tiny", CLIP, source), capsys)
        assert status == 2 and "imports this page from the package" in out


def test_out_of_time_is_said(draft, capsys):
    status, out, score = run(page_of(draft, CLIP, GOOD), capsys, "-n", 7, "--minutes", 0)
    assert status == 1 and "Out of time: 0 of 7 mutants were tried." in out and score["tried"] == 0


def test_an_edit_while_mutants_run_is_not_overwritten(draft, capsys):
    page = page_of(draft, CLIP, GOOD)
    score = mutate.run(page, mutate.sample(mutate.mutants_of(page.exports()), 2, 0))
    draft("diffusion/01_tiny.ipynb").code(CLIP.replace("- 1", "- 2")).save()
    mutate.record(page, score, 2, 0)
    assert "mutation" not in mutate.Page(page.path).meta and "not recorded" in capsys.readouterr().out


def test_source_is_at_hand_and_the_main_module_is_the_page(draft):
    page = page_of(draft, "#| exports\ndef f(x):\n    return x + 1", "import inspect, sys, dataclasses\n@dataclasses.dataclass\nclass A:\n    x: 'int' = 3\n"
                   "assert 'def f' in inspect.getsource(f) and sys.modules['__main__'].f is f and __name__ == '__main__'\ndisplay(f(A().x))\nassert f(1) == 2")
    assert mutate.run(page, mutate.mutants_of(page.exports())).rate == 1.0
