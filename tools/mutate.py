"""Mutation testing of a page: change its exported code in one place and see whether a check of the page turns red.

`python tools/mutate.py nbs/diffusion/04_ddim.ipynb -n 40 --seed 0` runs the page once as it is, and then once a mutant, with one cell
replaced, up to `## Experiment`. A server process runs the cells in order and forks a child for each mutant just before the cell that it
changes, so that a mutant costs only what comes after it. A child that raises, dies or runs away is killed: the checks noticed.
The kill rate has to be 90 %. A mutant that cannot be told from the original by any input is listed in the notebook's metadata, with the reason:
`ml_notes.equivalent_mutants = [{"mutant": "function: old -> new", "reason": "…"}]`.
"""
from __future__ import annotations

import argparse
import ast
import builtins
import copy
import difflib
import json
import linecache
import os
import random
import re
import resource
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from book import KILL_RATE, MUTANTS, Page, environment, imports_in, parse, save

CHILDREN = 2  # mutants at once
MEMORY = 8 << 30  # bytes that a mutant may map beyond what the page has mapped before it
GRACE = 10.0  # seconds of processor time that a mutant has beyond four times what the page takes
MINUTES = 10.0

OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult,
             ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift}
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
_pairs = ("min max, minimum maximum, amin amax, argmin argmax, clamp_min clamp_max, cumsum cumprod, sum mean, sin cos, floor ceil, any all, "
          "zeros ones, zeros_like ones_like, tril triu, logical_and logical_or")
FUNCTIONS = {a: b for pair in _pairs.split(", ") for x, y in [pair.split()] for a, b in [(x, y), (y, x)]}

DISPLAY = {"progress", "verbose", "desc", "leave", "title", "label", "xlabel", "ylabel", "color", "figsize"}  # parameters that change no result
UNSWAPPED = {"isinstance", "issubclass", "hasattr", "getattr", "setattr", "super", "cast", "require"}  # swapped, these fail whatever the checks
UNTOUCHED = (ast.Import, ast.ImportFrom, ast.Raise, ast.JoinedStr, ast.Global, ast.Nonlocal)  # no result depends on them, or an error message
TINY = 1e-5  # floats below are guards against division by zero: a tenth more of them cannot be seen


# --- what can be changed -----------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Mutant:
    "A page's cell with one change."

    cell: int  # index of the cell in the notebook
    function: str  # qualified name of the function that it changes, or "module"
    line: int  # within the cell, from 1
    change: str  # old -> new, unique within the function
    source: str  # the changed cell
    original: str  # the cell as it is

    @property
    def key(self) -> str:
        "What names this mutant while the function stays as it is, wherever it moves."
        return f"{self.function}: {self.change}"

    def diff(self) -> str:
        lines = difflib.unified_diff(self.original.splitlines(), self.source.splitlines(), f"cell {self.cell}", "mutant", n=2, lineterm="")
        return "\n".join(f"    {line}" for line in lines)


def replacements(node: ast.AST, parent: ast.AST) -> Iterator[ast.AST]:
    "What may stand in the place of `node`: each a syntactically valid node that computes something else."
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield node.operand
    if isinstance(node, ast.BinOp) and not any(isinstance(side, ast.JoinedStr) or _is_text(side) for side in (node.left, node.right)):
        if type(node.op) in OPERATORS:
            yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
        if isinstance(node.op, ast.MatMult):
            yield ast.BinOp(node.right, node.op, node.left)
        if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
            yield node.left
        if isinstance(node.op, (ast.Add, ast.Mult)):
            yield node.right
    if isinstance(node, ast.AugAssign):
        yield ast.Pass()
        if type(node.op) in OPERATORS:
            yield ast.AugAssign(node.target, OPERATORS[type(node.op)](), node.value)
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            if type(op) in COMPARISONS:
                yield ast.Compare(node.left, [*node.ops[:i], COMPARISONS[type(op)](), *node.ops[i + 1:]], node.comparators)
    if isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    if isinstance(node, ast.Constant):
        yield from (ast.Constant(value) for value in _other_values(node.value))
    if isinstance(node, ast.Name) and isinstance(parent, ast.Call) and node is parent.func and node.id in FUNCTIONS:
        yield ast.Name(FUNCTIONS[node.id], node.ctx)
    if isinstance(node, ast.Attribute) and isinstance(parent, ast.Call) and node is parent.func and node.attr in FUNCTIONS:
        yield ast.Attribute(node.value, FUNCTIONS[node.attr], node.ctx)
    if isinstance(node, ast.Call):
        yield from _other_calls(node)
    if isinstance(node, ast.Subscript):
        for index in _indices(node.slice):
            yield copy.deepcopy(node, {id(index): _plus(index, 1)})
    if isinstance(node, ast.expr) and node is getattr(parent, "test", None) or isinstance(parent, ast.comprehension) and node in parent.ifs:
        if not (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) or isinstance(parent, ast.Assert)):  # the first rule drops a `not`
            yield ast.UnaryOp(ast.Not(), node)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))


def _other_values(value) -> Iterator:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, float) and value == 0:
        yield 1.0
    elif isinstance(value, float) and TINY <= abs(value) <= 1 / TINY:
        yield value * 1.1


def _other_calls(node: ast.Call) -> Iterator[ast.Call]:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    args = node.args
    if len(args) >= 2 and name not in UNSWAPPED and not any(isinstance(a, ast.Starred) or _is_text(a) for a in args[:2]):
        yield ast.Call(node.func, [args[1], args[0], *args[2:]], node.keywords)
    if name == "range":
        last = min(len(args), 2) - 1
        yield ast.Call(node.func, [_plus(a, -1) if i == last else a for i, a in enumerate(args)], node.keywords)


def _indices(slice: ast.AST) -> Iterator[ast.expr]:
    "The positions in a subscript that can be off by one; constants have their own rule."
    parts = slice.elts if isinstance(slice, ast.Tuple) else [slice]
    for part in parts:
        for index in (part.lower, part.upper) if isinstance(part, ast.Slice) else (part,):
            if isinstance(index, (ast.Name, ast.BinOp)):
                yield index


def _plus(node: ast.expr, by: int) -> ast.BinOp:
    return ast.BinOp(node, ast.Add() if by > 0 else ast.Sub(), ast.Constant(abs(by)))


def sites(tree: ast.Module) -> Iterator[tuple[ast.AST, list[ast.AST]]]:
    "(node, its ancestors, outermost first) of everything in a cell whose change could change a result."
    def walk(node: ast.AST, above: list[ast.AST]) -> Iterator[tuple[ast.AST, list[ast.AST]]]:
        yield node, above
        for child in _children(node):
            yield from walk(child, [*above, node])

    for statement in tree.body:
        if not isinstance(statement, UNTOUCHED):
            yield from walk(statement, [tree])


def _children(node: ast.AST) -> Iterator[ast.AST]:
    "The children that may be changed: no annotation, docstring, decorator, error message, type or parameter of display."
    if isinstance(node, ast.Assert):
        skipped = [node.msg]
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        skipped = [*node.decorator_list, getattr(node, "returns", None)]
    elif isinstance(node, ast.AnnAssign):
        skipped = [node.annotation]
    elif isinstance(node, ast.arguments):
        named = [*zip([*node.posonlyargs, *node.args][::-1], node.defaults[::-1]), *zip(node.kwonlyargs, node.kw_defaults)]
        yield from (default for arg, default in named if default is not None and arg.arg not in DISPLAY)
        return
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require":
        yield from node.args[:1]
        return
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "warnings.warn", "TypeVar"):
        return
    elif isinstance(node, ast.Call):
        skipped = [k for k in node.keywords if k.arg in DISPLAY]
    elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and re.match(r"[A-Z][a-z]", node.value.id):
        return  # a type: Float[Tensor, "n"], Literal["a"], Callable[…]
    else:
        skipped = []
    for child in ast.iter_child_nodes(node):
        text = isinstance(child, ast.Expr) and _is_text(child.value)
        if not any(child is s for s in skipped) and not isinstance(child, UNTOUCHED) and not text:
            yield child


def _function(above: list[ast.AST]) -> str:
    "Class and function around a node, without the functions nested in it."
    names = []
    for node in above:
        if isinstance(node, ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.append(node.name)
            break
    return ".".join(names) or "module"


def _change(node: ast.AST, new: ast.AST, above: list[ast.AST]) -> str:
    "old -> new, with enough around a bare constant or name to recognise it."
    around = node
    if isinstance(node, (ast.Constant, ast.Name)):
        chain = [a for a in above if not isinstance(a, (ast.Slice, ast.Tuple, ast.UnaryOp, ast.comprehension))]
        around = chain[-1]
        if isinstance(around, ast.arguments):
            pairs = [*zip([*around.posonlyargs, *around.args][::-1], around.defaults[::-1]), *zip(around.kwonlyargs, around.kw_defaults)]
            (name,) = [arg.arg for arg, default in pairs if default is not None and any(node is n for n in ast.walk(default))]
            return f"{name}={ast.unparse(node)} -> {name}={ast.unparse(new)}"
        if isinstance(around, ast.stmt) and hasattr(around, "body"):
            around = node
    return f"{ast.unparse(around)} -> {ast.unparse(_replaced(around, node, new))}"


def _replaced(tree: ast.AST, node: ast.AST, new: ast.AST) -> ast.AST:
    "A copy of `tree` with `new` in the place of `node`: deepcopy believes what its memo says."
    return ast.fix_missing_locations(copy.deepcopy(tree, {id(node): new}))


def _spliced(source: str, node: ast.AST, new: ast.AST, mutant: ast.Module) -> str:
    "The changed cell with all else as it was written, so that a diff shows the change and nothing more."
    raw = source.encode()
    starts = [0, *(i + 1 for i, byte in enumerate(raw) if byte == 10)]
    start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
    for form in ("{}", "({})"):
        text = (raw[:start] + form.format(ast.unparse(new)).encode() + raw[end:]).decode()
        try:
            if ast.dump(ast.parse(text)) == ast.dump(mutant):
                return text
        except SyntaxError:
            pass
    return ast.unparse(mutant)


def mutants_of(cells: list[tuple[int, str]]) -> list[Mutant]:
    "Every distinct mutant of the given (cell index, source), in the order of the source."
    found, seen, named = [], set(), {}
    for cell, source in cells:
        tree = ast.parse(source)
        seen.add(ast.unparse(tree))
        for node, above in sites(tree):
            for new in replacements(node, above[-1]):
                mutant = _replaced(tree, node, new)
                text = ast.unparse(mutant)
                if text in seen:
                    continue
                seen.add(text)
                function, change = _function([*above, node]), _change(node, new, above)
                times = named[function, change] = named.get((function, change), 0) + 1
                change += f" ({times})" if times > 1 else ""
                found.append(Mutant(cell, function, node.lineno, change, _spliced(source, node, new, mutant), source))
    return found


def sample(mutants: list[Mutant], n: int, seed: int) -> list[Mutant]:
    "`n` of the mutants, the same for the same seed: one a function in turn, so that a long function does not take them all."
    rng = random.Random(seed)
    groups: dict[str, list[Mutant]] = {}
    for m in mutants:
        groups.setdefault(m.function, []).append(m)
    for group in groups.values():
        rng.shuffle(group)
    turns = [m for turn in range(max(map(len, groups.values()), default=0)) for group in groups.values() for m in group[turn:turn + 1]]
    chosen = {m.key for m in turns[:n]}
    return [m for m in mutants if m.key in chosen]


# --- running them ------------------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Plan:
    "What a server runs: a page's cells, and where their changed forms go."

    page: Page
    cells: list[tuple[int, str]]

    def enter(self) -> dict:
        "Make this process what a kernel would be to the page: its folder, an empty `__main__`, nothing on the screen."
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        os.chdir(self.page.path.parent)
        sys.path.insert(0, "")
        sys.argv = [""]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        main.display = builtins.display = lambda *args, **kwargs: None
        return main.__dict__

    def execute(self, i: int, source: str, namespace: dict) -> None:
        name = f"<{self.page.name} cell {i}>"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)  # Triton and inspect read the source of a function
        exec(compile(source, name, "exec"), namespace)

    def rest(self, mutant: Mutant, namespace: dict) -> dict:
        "Run a mutant's cell and all after it: what noticed the change, if anything did."
        for i, source in self.cells:
            if i < mutant.cell:
                continue
            try:
                self.execute(i, mutant.source if i == mutant.cell else source, namespace)
            except BaseException as e:  # a mutant may also exit, or interrupt
                first = next(iter(str(e).strip().splitlines()), "") or traceback.extract_tb(e.__traceback__)[-1].line
                return dict(key=mutant.key, status="killed", by=f"cell {i}: {type(e).__name__}: {first}"[:300])
        return dict(key=mutant.key, status="survived", by="")

    def baseline(self, send: Callable) -> None:
        "Run the page as it is and send the seconds of CPU that each cell took."
        namespace, taken = self.enter(), {}
        for i, source in self.cells:
            start = time.process_time()
            try:
                self.execute(i, source, namespace)
            except BaseException as e:
                return send(dict(error=f"cell {i}: {type(e).__name__}: {e}"[:2000]))
            taken[i] = time.process_time() - start
        send(dict(taken=taken))

    def serve(self, mutants: list[Mutant], taken: dict[int, float], deadline: float, send: Callable) -> None:
        "Run the page, fork a child for each mutant just before its cell, and send what became of it."
        namespace, running = self.enter(), {}

        def reap(room: int) -> None:
            "Wait until fewer than `room` children run; report those that could not do so themselves."
            while len(running) >= room:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid:
                    mutant, _ = running.pop(pid)
                    if status:
                        code = os.waitstatus_to_exitcode(status)
                        late = -code in (signal.SIGXCPU, signal.SIGALRM)
                        by = "ran four times as long as the page" if late else f"the process died ({code})"
                        send(dict(key=mutant.key, status="timeout" if late else "killed", by=by))
                    continue
                for pid, (_, until) in running.items():
                    if time.monotonic() > until:
                        os.kill(pid, signal.SIGALRM)
                time.sleep(0.01)

        for i, source in self.cells:
            for mutant in (m for m in mutants if m.cell == i):
                reap(CHILDREN)
                if time.monotonic() > deadline:
                    break
                # processor time, so that a busy machine kills no mutant; wall time for those that sleep
                limit = GRACE + 4 * sum(t for j, t in taken.items() if j >= i)
                pid = _fork(lambda mutant=mutant, limit=limit: (_limit(limit), send(self.rest(mutant, namespace))))
                running[pid] = mutant, time.monotonic() + 3 * limit
            self.execute(i, source, namespace)
            if time.monotonic() > deadline or all(m.cell <= i for m in mutants):
                break
        reap(1)


def _limit(seconds: float) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    if mapped:
        resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY, mapped + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 6))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _fork(work: Callable) -> int:
    "Run `work` in a forked process that ends with it, whatever happens."
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def messages(work: Callable[[Callable], None]) -> Iterator[dict]:
    "Fork a process that calls `work(send)`, and yield what it, or its own children, send."
    read, write = os.pipe()

    def send(message: dict) -> None:
        os.write(write, json.dumps(message).encode() + b"\n")  # below PIPE_BUF, so lines of several writers do not mix

    pid = _fork(lambda: (os.close(read), work(send)))
    os.close(write)
    try:
        with os.fdopen(read) as lines:
            yield from map(json.loads, lines)
    finally:
        os.waitpid(pid, 0)


# --- the report --------------------------------------------------------------------------------------------------------------------------

@dataclass
class Score:
    "What became of the mutants that were tried."

    tried: list[Mutant]
    fate: dict[str, dict]  # key -> what its run sent
    equivalent: dict[str, str]  # key -> reason, as the notebook lists them

    @cached_property
    def survivors(self) -> list[Mutant]:
        return [m for m in self.tried if self.fate[m.key]["status"] == "survived" and m.key not in self.equivalent]

    @property
    def counted(self) -> list[Mutant]:
        "Those that a check could have noticed."
        return [m for m in self.tried if m.key not in self.equivalent]

    @property
    def false_claims(self) -> list[Mutant]:
        "Listed as equivalent, and yet noticed."
        return [m for m in self.tried if m.key in self.equivalent and self.fate[m.key]["status"] != "survived"]

    @property
    def killed(self) -> int:
        return len(self.counted) - len(self.survivors)

    @property
    def rate(self) -> float:
        return self.killed / len(self.counted) if self.counted else 0.0


def own_imports(page: Page) -> list[str]:
    "Where a page imports from the package what it defines itself: a mutation would not reach it."
    return [f"cell {i}: `{ast.unparse(node)}` imports this page from the package, where it is not mutated"
            for i, source in page.runnable() for node, names in imports_in(parse(source)) if f"ml_notes.{page.module}" in names]


def run(page: Page, mutants: list[Mutant], minutes: float = MINUTES) -> Score:
    "Try the mutants, for at most so many minutes."
    from tqdm import tqdm

    deadline = time.monotonic() + 60 * minutes
    plan = Plan(page, page.runnable(before="Experiment"))
    result = next(messages(plan.baseline), dict(error="the page's process died"))
    if "error" in result:
        raise SystemExit(f"{page.name}: without any mutation, {result['error']}")
    taken = {int(i): t for i, t in result["taken"].items()}
    print(f"{page.name}: the page as it is passes, {sum(taken.values()):.1f} s of processor time without its experiment", flush=True)
    fate = {}
    with tqdm(total=len(mutants), desc="mutants", unit="") as bar:
        for message in messages(lambda send: plan.serve(mutants, taken, deadline, send)):
            fate[message["key"]] = message
            bar.update()
            bar.set_postfix(survived=sum(m["status"] == "survived" for m in fate.values()))
    equivalent = {e["mutant"]: e["reason"] for e in page.meta.get("equivalent_mutants", [])}
    return Score([m for m in mutants if m.key in fate], fate, equivalent)


def report(score: Score, wanted: int, known: set[str]) -> bool:
    "Print what happened; True when the checks are good enough and no claim of equivalence is false."
    for m in score.tried:
        if m.key not in score.equivalent and score.fate[m.key]["status"] != "survived":
            print(f"  {score.fate[m.key]['status']:8} {m.key}   [{score.fate[m.key]['by']}]")
    for m in score.survivors:
        print(f"\nSURVIVED {m.key}\n  in {m.function}, cell {m.cell}, line {m.line}\n{m.diff()}")
    if equivalent := [m for m in score.tried if m.key in score.equivalent and m not in score.false_claims]:
        print("\nequivalent, as the notebook says:", *(f"  {m.key}: {score.equivalent[m.key]}" for m in equivalent), sep="\n")
    for m in score.false_claims:
        print(f"\nERROR listed as equivalent, but {score.fate[m.key]['status']}: {m.key}   [{score.fate[m.key]['by']}]")
    stale = sorted(set(score.equivalent) - known)
    for key in stale:
        print(f"\nERROR listed as equivalent, but there is no such mutant: {key}")
    if len(score.tried) < wanted:
        print(f"\nOut of time: {len(score.tried)} of {wanted} mutants were tried.")
    print(f"\nkilled {score.killed} of {len(score.counted)} ({score.rate:.0%}, at least {KILL_RATE:.0%} wanted), "
          f"{len(score.tried) - len(score.counted)} equivalent, {len(score.tried)} tried")
    return score.rate >= KILL_RATE and not score.false_claims and not stale


def record(page: Page, score: Score, n: int, seed: int) -> None:
    "Keep the score in the notebook's metadata, unless its exported code has been edited meanwhile."
    now = Page(page.path)
    if now.exports_hash != page.exports_hash:
        print("not recorded: the notebook's exported code changed while its mutants ran")
        return
    now.nb.metadata.setdefault("ml_notes", {})["mutation"] = dict(
        killed=score.killed, tried=len(score.tried), equivalent=len(score.tried) - len(score.counted), seed=seed, n=n, exports_hash=page.exports_hash)
    save(now.nb, page.path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path, help="nbs/<family>/<notebook>.ipynb")
    parser.add_argument("-n", type=int, default=MUTANTS, help=f"how many mutants (default {MUTANTS})")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default 0)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"stop after so many (default {MINUTES:g})")
    parser.add_argument("--list", action="store_true", help="show the mutants and run none")
    parser.add_argument("--only", metavar="KEY", help="run the mutants whose key contains this, and record nothing")
    options = parser.parse_args(arguments)

    # before numpy or torch is imported: a process that has started threads cannot fork, and CUDA does not survive a fork
    os.environ.update(environment(threads=1), MPLBACKEND="Agg", CUDA_VISIBLE_DEVICES="", TQDM_MONITOR_INTERVAL="0")
    page = Page(options.notebook.resolve())
    if problems := own_imports(page):
        print(*(f"{page.name}: {p}" for p in problems), sep="\n")
        return 2
    run_cells = {i for i, _ in page.runnable(before="Experiment")}
    every = mutants_of([(i, source) for i, source in page.exports() if i in run_cells])
    if left_out := [i for i, _ in page.exports() if i not in run_cells]:
        print(f"{page.name}: exported cells {left_out} come after `## Experiment` and are not mutated")
    chosen = [m for m in every if options.only in m.key] if options.only else sample(every, options.n, options.seed)
    print(f"{page.name}: {len(chosen)} of {len(every)} mutants")
    if options.list:
        print(*(f"  {m.key}" for m in chosen), sep="\n")
        return 0
    if not chosen:
        print("nothing to mutate")
        return 2
    score = run(page, chosen, options.minutes)
    good = report(score, len(chosen), {m.key for m in every})
    if not options.only:
        record(page, score, options.n, options.seed)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
