"""Made-up hostile input, numbered: settings, rows and model folders that nobody should write, and somebody will.

Each case is decided by its number alone, so that one that went wrong can be looked at again:
`case(kind, number, folder)` writes what it needs into `folder` and gives the command line for it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optima_lite.settings.keys import reference
from optima_lite.settings.machine import Machine
from optima_lite.settings.recipe import Recipe

KINDS = ("settings", "rows", "model")
BUNDLED = Path(__file__).parents[1] / "optima_lite" / "tiny_llama"
BASE = "model: {name: tiny}\ntask: {name: world}\n"
BENCHMARKS = ("hotpotqa", "2wikimultihopqa", "triviaqa", "cbt", "gsm8k", "math", "arc_challenge", "mmlu")


def case(kind: str, number: int, folder: Path) -> list[str]:
    """The arguments of `optima-lite` for a case."""
    folder.mkdir(parents=True)
    rng = random.Random(f"{kind}/{number}")
    makers: dict[str, tuple[Callable[[random.Random, Path], list[str]], ...]] = {
        "settings": (overridden, rewritten, machine_file, garbled),
        "rows": (rows_of_any_layout, benchmark_rows, odd_files),
        "model": (odd_config, odd_config, odd_weights, odd_tokenizer, odd_side_files, odd_folder),
    }
    return rng.choice(makers[kind])(rng, folder)


# --- Values ---------------------------------------------------------------------------------------


def deep(rng: random.Random, levels: int) -> Any:
    """Lists and objects within each other."""
    value: Any = rng.choice([0, "x", None])
    for _ in range(levels):
        value = [value] if rng.random() < 0.5 else {"k": value}
    return value


def text(rng: random.Random) -> str:
    """Text that terminals, files or patterns dislike."""
    return rng.choice(
        [
            "", " ", "\0", "\x1b[31m", "\r\n", "\ud800", "\udcff" * 3, "\ufeff", "é" * 50, "\u202e" + "abc", "${HOME}", "%s%n",
            "{name!r}", "{0.__class__}", "{{7*7}}", "../" * 40, "~root/x", "~nobody-here/x", "-" * 3, "--help", "\\" * 9,
            "a" * rng.choice([300, 5_000, 60_000]), "(a+)+$", "(?P<x>", "[", "\\", "(?:" * 300, "a{9999}{9999}", "'", '"', "#", ": ",
            "- ", "!!python/object:os.system", "&a *a", "<|eot_id|>", "<A></A>", "NaN", "1e999", "0x10", "1_000", "\U0001f600" * 9,
        ]
    )  # fmt: skip


def number(rng: random.Random) -> Any:
    """Numbers at and beyond the edges."""
    edges = [
        0,
        -1,
        1,
        2**31,
        2**32,
        2**63,
        2**64,
        10**18,
        10**30,
        10**400,
        -(10**18),
        0.0,
        -0.0,
        1e-320,
        1e308,
        -1e308,
        0.5,
        1.5,
    ]
    return rng.choice([*edges, float("inf"), float("-inf"), float("nan")])


def value(rng: random.Random) -> Any:
    """Any JSON value, of the wrong type more often than not."""
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: text(rng),
        lambda: number(rng),
        lambda: rng.choice([None, True, False, [], {}, [[]], {"": {}}]),
        lambda: [value(rng) for _ in range(rng.randrange(4))],
        lambda: {text(rng)[:30]: value(rng) for _ in range(rng.randrange(4))},
        lambda: deep(rng, rng.choice([5, 70, 400])),
        lambda: [rng.choice(["x", 0])] * rng.choice([1_000, 20_000]),
    )
    return rng.choice(kinds)()


# --- Settings -------------------------------------------------------------------------------------

KEYS = [key.path for key in reference(Recipe)]
MACHINE_KEYS = [key.path for key in reference(Machine)]


def argument(text: str) -> str:
    """What can be an argument of a process: no null characters, and not without end."""
    return text.replace("\0", "")[:90_000]


def overridden(rng: random.Random, folder: Path) -> list[str]:
    """A recipe that is fine, and wrong words on the command line."""
    (folder / "r.yaml").write_text(BASE)
    verb = rng.choice([["check", "--no-probe"], ["recipes", "show"], ["check", "--no-probe"]])
    changes = []
    for _ in range(rng.randrange(1, 4)):
        key = rng.choice([*KEYS, *MACHINE_KEYS, rng.choice(KEYS)[:-1], text(rng), "variants.x", "reward.schemas.Alice"])
        written = rng.choice([str, json.dumps, lambda v: repr(v)[:500]])(value(rng))
        changes.append(argument(f"{key}={written}"))
    options = rng.choice([[], ["--variant", argument(text(rng)) or "x"], ["--variant=" + ",".join(["x"] * 500)]])
    if verb[0] == "check":
        options += rng.choice(
            [[], ["--run", argument(text(rng)) or "x"], ["--vram", rng.choice(["inf", "nan", "1e308", "-1", "0"])]]
        )
    return [*verb, str(folder / "r.yaml"), *options, "--", *changes]


def rewritten(rng: random.Random, folder: Path) -> list[str]:
    """A recipe file with hostile values, well-formed."""
    recipe: dict[str, Any] = {"model": {"name": "tiny"}, "task": {"name": "world"}}
    for _ in range(rng.randrange(1, 5)):
        *sections, last = rng.choice([*KEYS, "variants.small", "variants", "nowhere.x"]).split(".")
        inside = recipe
        for section in sections:
            if not isinstance(inside.get(section), dict):
                inside[section] = {}
            inside = inside[section]
        inside[last] = value(rng)
    (folder / "r.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return [*rng.choice([["check", "--no-probe"], ["recipes", "show"]]), str(folder / "r.yaml")]


def machine_file(rng: random.Random, folder: Path) -> list[str]:
    """A machine file with hostile values."""
    (folder / "r.yaml").write_text(BASE)
    lines = []
    for _ in range(rng.randrange(1, 4)):
        key = rng.choice([*MACHINE_KEYS, text(rng)[:50], "models.x", "training.epochs"])
        lines.append(f"{key} = {rng.choice([json.dumps, str])(value(rng))}")
    (folder / "m.toml").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    verb = rng.choice([["check", "--no-probe", str(folder / "r.yaml")], ["runs", "list"], ["doctor"]])
    return [*verb, "--config", str(folder / "m.toml")]


def garbled(rng: random.Random, folder: Path) -> list[str]:
    """A file that is no recipe, or hardly one."""
    path, good = folder / "r.yaml", (BUNDLED.parents[1] / "recipes" / "quickstart.yaml").read_bytes()
    kind = rng.randrange(9)
    if kind == 0:
        path.write_bytes(rng.randbytes(rng.choice([1, 100, 50_000])))
    elif kind == 1:  # one byte of a good recipe is another one
        at = rng.randrange(len(good))
        path.write_bytes(good[:at] + rng.randbytes(1) + good[at + 1 :])
    elif kind == 2:
        path.write_bytes(good[: rng.randrange(len(good))])
    elif kind == 3:
        path.write_text(rng.choice("[{-?") * rng.choice([50, 3_000, 90_000]))
    elif kind == 4:
        path.write_text("".join(f"key{i}: {i}\n" for i in range(rng.choice([100, 8_000]))))
    elif kind == 5:
        path.write_text(
            "a: &a [x]\n"
            + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(20))
        )
    elif kind == 6:
        path.write_text(BASE + "".join(f"variants: {{v{i}: {{seed: {i}}}}}\n" for i in range(50)))
    elif kind == 7:
        lines = good.splitlines(keepends=True)
        rng.shuffle(lines)
        path.write_bytes(b"".join(lines))
    else:
        rng.choice([os.mkfifo, os.mkdir, lambda p: os.symlink(p, p), lambda p: os.symlink("/dev/zero", p)])(path)
    return [*rng.choice([["check", "--no-probe"], ["recipes", "show"]]), str(path)]


# --- Rows -----------------------------------------------------------------------------------------


def checking(folder: Path, *changes: str) -> list[str]:
    """`check`, which reads every row."""
    (folder / "r.yaml").write_text(BASE)
    return ["check", "--no-probe", str(folder / "r.yaml"), *changes]


def damaged(rng: random.Random, row: Any) -> Any:
    """A row with one value somewhere inside exchanged, taken away or nested."""
    if isinstance(row, dict) and row and rng.random() < 0.8:
        key = rng.choice(list(row))
        changed = dict(row)
        if rng.random() < 0.2:
            del changed[key]
        else:
            changed[key] = damaged(rng, row[key]) if rng.random() < 0.6 else value(rng)
        return changed
    if isinstance(row, list) and row and rng.random() < 0.7:
        at = rng.randrange(len(row))
        return [*row[:at], damaged(rng, row[at]), *row[at + 1 :]]
    return value(rng)


def line(rng: random.Random, row: Any) -> bytes:
    """A row as a line; NaN, infinity and half characters pass as Python writes them."""
    written = json.dumps(row, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.15:
        written = written[: rng.randrange(len(written) + 1)] + rng.randbytes(rng.randrange(3))
    return written.replace(b"\n", b" ") + b"\n"


def rows_of_any_layout(rng: random.Random, folder: Path) -> list[str]:
    """JSONL with a layout of its own, and paths into it."""
    good = {"question": "Who?", "answers": ["a", "b"], "context": ["x", "y"], "id": 3, "t": ["T", "U"], "s": [0]}
    rows = [good | {"question": f"Who is {i}?", "id": i} for i in range(30)]
    at = rng.randrange(30)
    rows[at] = damaged(rng, rows[at])
    (folder / "rows.jsonl").write_bytes(b"".join(line(rng, row) for row in rows))
    fields = {
        "question": "question",
        "answers": "answers",
        "context": "context",
        "titles": "t",
        "support": "s",
        "id": "id",
    }
    changes = [f"task.fields.{name}={path}" for name, path in fields.items() if rng.random() < 0.5]
    if rng.random() < 0.4:
        pattern = rng.choice(
            ["(a+)+$", "(.*)*x", "(a|a)*b", "(?s)(.*.*)*c", "((a?){30}){30}", "a", "(x)|(y)|", "(?=(a+))*b"]
        )
        changes.append(f"task.answer_pattern='{pattern}'")
        rows = [row | {"answers": "a" * 30_000 + "!"} if isinstance(row, dict) else row for row in rows]
        (folder / "rows.jsonl").write_bytes(b"".join(line(rng, row) for row in rows))
    if rng.random() < 0.3:
        odd = rng.choice(["*.*.*", ".".join("0" * 90), "9" * 99, "answers.9", "a.b.c", "*", "context.-1", "question.0"])
        changes.append(f"task.fields.{rng.choice(['id', 'titles', 'context', 'support'])}={odd}")
        changes = list({change.partition("=")[0]: change for change in changes}.values())
    return checking(folder, "task.name=jsonl", f"task.path={folder / 'rows.jsonl'}", *changes)


GOOD_ROWS: dict[str, dict[str, Any]] = {
    "hotpotqa": {
        "question": "Who?", "answer": "a", "supporting_facts": {"title": ["T"], "sent_id": [0]},
        "context": {"title": ["T", "U"], "sentences": [["x."], ["y."]]},
    },
    "triviaqa": {"question": "Who?", "answer": {"value": "a", "aliases": ["b"]}, "search_results": {"description": ["x"]}},
    "cbt": {"question": "The XXXXX .", "answer": "a", "options": ["a", "b"], "sentences": ["x"] * 20},
    "gsm8k": {"question": "How many?", "answer": "It is #### 3"},
    "math": {"problem": "What?", "solution": "\\boxed{3}"},
    "arc_challenge": {"question": "Which?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"},
    "mmlu": {"question": "Which?", "choices": ["a", "b"], "answer": 0},
}  # fmt: skip
GOOD_ROWS["2wikimultihopqa"] = GOOD_ROWS["hotpotqa"]


def benchmark_rows(rng: random.Random, folder: Path) -> list[str]:
    """A benchmark's own layout, damaged."""
    name = rng.choice(BENCHMARKS)
    asked = "problem" if name == "math" else "question"
    rows: list[Any] = [GOOD_ROWS[name] | {asked: f"{GOOD_ROWS[name][asked]} {i}"} for i in range(30)]
    at = rng.randrange(30)
    rows[at] = damaged(rng, rows[at])
    path = folder / f"rows{rng.choice(['.jsonl', '.jsonl', '.json', '.parquet'])}"
    if path.suffix == ".json":
        path.write_bytes(json.dumps(rows).encode())
    else:
        path.write_bytes(b"".join(line(rng, row) for row in rows))
    return checking(folder, f"task.name={name}", f"task.path={path}")


def odd_files(rng: random.Random, folder: Path) -> list[str]:
    """Something else where the file of rows should be."""
    path = folder / f"rows{rng.choice(['.jsonl', '.json', '.parquet', ''])}"
    rng.choice(
        [
            lambda: os.mkfifo(path),
            lambda: os.symlink("/dev/zero", path),
            lambda: os.symlink("/dev/full", path),
            lambda: os.symlink(path, path),
            lambda: path.mkdir(),
            lambda: path.write_bytes(b""),
            lambda: path.write_bytes(b"\n" * 100_000),
            lambda: path.write_bytes(rng.randbytes(100_000)),
            lambda: path.write_bytes(b"[" * 100_000),
            lambda: path.write_bytes(b"[" * 400 + b"]" * 400),
            lambda: path.write_bytes(b'{"question": ' + b"1" * 6_000 + b"}\n"),
            lambda: path.write_bytes(b'{"question": "' + b"x" * (20 << 20)),
            lambda: path.write_bytes(b"PAR1" + rng.randbytes(50) + b"PAR1"),
            lambda: path.write_text('{"question": "Q", "answers": "x", "context": []}\n' * 20_000),
            lambda: path.write_text("\ufeff[]"),
            lambda: None,
        ]
    )()
    where = rng.choice([str(path)] * 6 + ["~nobody-here/rows.jsonl", "x" * 3_000, "/proc/self/mem", "/", "."])
    return checking(folder, f"task.name={rng.choice(['jsonl', *BENCHMARKS])}", f"task.path={where}")


# --- Model folders --------------------------------------------------------------------------------


def model(folder: Path) -> Path:
    """A copy of the bundled model that may be changed, its weights as a link until they are."""
    copied = folder / "model"
    copied.mkdir()
    for path in BUNDLED.iterdir():
        if path.suffix == ".safetensors":
            os.link(path, copied / path.name)
        else:
            shutil.copyfile(path, copied / path.name)
    return copied


def loading(rng: random.Random, folder: Path, *changes: str) -> list[str]:
    """A run that would begin with this model, all of whose sizes are small."""
    small = "protocol: {max_turns: 2}\nsampling: {rollouts: 1, max_turn_tokens: 4}\nreward: {readability: capped}\n"
    small += "training: {iterations: 1, questions: 1, epochs: 1, batch_size: 1}\nselection: {min_reward: -9}\n"
    small += (
        "evaluation: {questions: 1, validation_questions: 1}\nprompts: {system: You are {name}., solo_system: Hi.}\n"
    )
    small = small.replace("{name}", "Alice")
    (folder / "r.yaml").write_text(
        f"model: {{name: {json.dumps(str(folder / 'model'))}}}\ntask: {{name: world}}\n{small}"
    )
    (folder / "m.toml").write_text(f'threads = 1\nrun_folder = "{folder / "runs"}"\noffline = true\n')
    verb = rng.choice([["train", "--quiet"], ["train", "--quiet"], ["check", "--no-probe"]])
    return [*verb, str(folder / "r.yaml"), "--config", str(folder / "m.toml"), *changes]


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A JSON file with something else in it; what cannot be written as UTF-8 is escaped."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


EXTRA_FIELDS: dict[str, Any] = {
    "attn_implementation": "evil/kernel", "_attn_implementation": "evil/kernel", "_attn_implementation_internal": "paged|evil/x",
    "experts_implementation": "x", "torch_dtype": "float7", "dtype": "complex128", "transformers_weights": "x.safetensors",
    "auto_map": {"AutoConfig": "x.Y"}, "rope_scaling": {"type": "x"}, "quantization_config": {"quant_method": "gptq", "bits": 4},
    "pretraining_tp": 7, "is_decoder": False, "is_encoder_decoder": True, "use_cache": False, "output_attentions": True,
    "problem_type": "x", "num_labels": -1, "id2label": 3, "chunk_size_feed_forward": 9, "cross_attention_hidden_size": "x",
    "text_config": {"hidden_size": 8}, "vision_config": {}, "sub_configs": 3, "per_layer_config": [1], "tp_plan": "x",
    "base_model_tp_plan": {"x": "y"}, "layer_types": ["linear_attention"] * 4, "sliding_window": 1, "use_sliding_window": True,
    "tokenizer_class": "x", "custom_pipelines": {"x": 1}, "architectures": [["LlamaForCausalLM"]], "model_type": "../x",
    "max_length": -1, "min_length": 99, "suppress_tokens": "x", "bad_words_ids": [[1]], "transformers_version": 3, "_name_or_path": 3,
    "return_dict": "x", "tie_encoder_decoder": True, "pruned_heads": {"0": [0, 1, 2, 3]}, "head_dim": 0, "gguf_file": "x",
}  # fmt: skip


def odd_config(rng: random.Random, folder: Path) -> list[str]:
    """A config.json with values of the wrong type or range, or fields that ask for something else."""

    def change(config: dict[str, Any]) -> None:
        for _ in range(rng.randrange(1, 4)):
            if rng.random() < 0.4:
                name = rng.choice(list(EXTRA_FIELDS))
                config[name] = EXTRA_FIELDS[name] if rng.random() < 0.7 else value(rng)
            elif rng.random() < 0.6:
                config[rng.choice(list(config))] = value(rng)
            else:
                sizes = [
                    "hidden_size",
                    "num_hidden_layers",
                    "vocab_size",
                    "intermediate_size",
                    "num_attention_heads",
                    "head_dim",
                ]
                config[rng.choice([*sizes, "num_key_value_heads", "max_position_embeddings"])] = rng.choice(
                    [1, 2, 3, 5, 7, 64, 191, 193, 999, 4_096, 100_000, 1_000_000, 0, -1, True, 48.0, "192", None]
                )
            if rng.random() < 0.2:
                stored = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
                stored[rng.choice([*stored, "bnb_4bit_compute_dtype", "llm_int8_skip_modules", "bits"])] = value(rng)
                config["quantization_config"] = stored

    edited(model(folder) / "config.json", change)
    return loading(rng, folder)


def odd_weights(rng: random.Random, folder: Path) -> list[str]:
    """Weights that are cut, longer, empty, of another header, not numbers, or somewhere else."""
    path = model(folder) / "model.safetensors"
    data = path.read_bytes()
    path.unlink()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])

    def with_header(changed: Any) -> bytes:
        written = json.dumps(changed).encode()
        return struct.pack("<Q", len(written)) + written + data[8 + length :]

    def changed_entry() -> bytes:
        name = rng.choice([name for name in header if name != "__metadata__"])
        entry = header[name]
        entry[rng.choice(list(entry))] = value(rng)
        return with_header(header)

    def renamed() -> bytes:
        name = rng.choice([name for name in header if name != "__metadata__"])
        return with_header({("x" + key if key == name else key): held for key, held in header.items()})

    def index(names: Any) -> None:
        path.with_name("model.safetensors.index.json").write_text(json.dumps(names))

    def not_numbers() -> bytes:  # bf16: all ones are not a number
        at = rng.randrange(8 + length, len(data) - 2_000)
        return data[:at] + b"\xff" * 1_500 + data[at + 1_500 :]

    kind = rng.randrange(10)
    if kind == 0:
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == 1:
        path.write_bytes(data + rng.randbytes(rng.choice([1, 8, 5_000])))
    elif kind == 2:
        path.write_bytes(struct.pack("<Q", rng.choice([0, 1, 2**62, 2**63, len(data), 100_000_001])) + data[8:])
    elif kind == 3:
        path.write_bytes(changed_entry())
    elif kind == 4:
        path.write_bytes(renamed())
    elif kind == 5:
        path.write_bytes(not_numbers())
    elif kind == 6:
        names = rng.choice([{}, [], {"weight_map": value(rng)}, {"weight_map": {"a": "../../x.safetensors"}},
                            {"weight_map": {"a": "/etc/passwd"}}, {"weight_map": {"a": "part.safetensors", "b": "gone.safetensors"}}])  # fmt: skip
        path.with_name("part.safetensors").write_bytes(data)
        index(names)
    elif kind == 7:
        rng.choice([os.mkfifo, os.mkdir, lambda p: os.symlink(p, p), lambda p: os.symlink("/dev/zero", p)])(path)
    elif kind == 8:
        path.with_name(rng.choice(["pytorch_model.bin", "x.pt", "model.gguf", "flax_model.msgpack"])).write_bytes(
            rng.randbytes(99)
        )
    else:
        path.write_bytes(rng.choice([b"", b"{}", rng.randbytes(5_000), b"\0" * 100_000]))
    return loading(rng, folder)


def odd_tokenizer(rng: random.Random, folder: Path) -> list[str]:
    """A tokenizer or chat template that is damaged, never ends, or fills the memory."""
    home = model(folder)
    tokenizer, template = home / "tokenizer.json", home / "chat_template.jinja"
    loop = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
    flood = "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
    templates = [
        loop, flood, "{{ 'x' * 10**9 }}", "{{ 10**10**10 }}", "{{ messages", "{% x %}", "{{ messages[9].content }}", "", "nothing",
        "{{ raise_exception('no') }}", "{{ ''.__class__.__mro__ }}", "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% include 'x' %}", "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        "{{ messages | map(attribute='content') | join | length }}", "{% for m in messages %}{{ m.role.x.y }}{% endfor %}", "\ud800"[:0] + "{{ x.y.z }}",
    ]  # fmt: skip
    kind = rng.randrange(7)
    if kind == 0:
        template.write_text(rng.choice(templates))
    elif kind == 1:
        template.unlink()
        edited(
            home / "tokenizer_config.json",
            lambda c: c.update(chat_template=rng.choice([*templates, value(rng), [{"name": "default"}]])),
        )
    elif kind == 2:
        edited(tokenizer, lambda content: content.update({rng.choice(list(content)): value(rng)}))
    elif kind == 3:

        def change(content: dict[str, Any]) -> None:
            content["model"] = damaged(rng, content["model"])

        edited(tokenizer, change)
    elif kind == 4:
        data = tokenizer.read_bytes()
        at = rng.randrange(len(data))
        tokenizer.write_bytes(
            rng.choice([data[:at], data[:at] + rng.randbytes(9) + data[at + 9 :], b"", b"{}", b"[" * 99_999])
        )
    elif kind == 5:

        def change(content: dict[str, Any]) -> None:
            for _ in range(3):
                content[
                    rng.choice([*content, "unk_token", "auto_map", "added_tokens_decoder", "extra_special_tokens"])
                ] = value(rng)

        edited(home / "tokenizer_config.json", change)
    else:

        def change(content: dict[str, Any]) -> None:
            one = rng.choice(content["added_tokens"])
            one[rng.choice(list(one))] = rng.choice([value(rng), 10**6, 0, "a"])

        edited(tokenizer, change)
    return loading(rng, folder)


def odd_side_files(rng: random.Random, folder: Path) -> list[str]:
    """generation_config.json and other files beside the model that would change what the libraries do."""
    home = model(folder)
    wishes = {
        "num_beams": 9, "stop_strings": ["a"], "watermarking_config": {"x": 1}, "eos_token_id": value(rng), "max_length": -1,
        "forced_bos_token_id": 5, "bad_words_ids": [[1]], "cache_implementation": "quantized", "custom_generate": "x", "do_sample": "x",
        "temperature": -1, "transformers_version": 3, "compile_config": {"x": 1}, "assistant_model": "x", "guidance_scale": "x",
    }  # fmt: skip
    kind = rng.randrange(4)
    if kind == 0:
        chosen = {name: wishes[name] for name in rng.sample(list(wishes), 4)}
        (home / "generation_config.json").write_text(json.dumps(chosen))
    elif kind == 1:
        (home / "generation_config.json").write_text(
            rng.choice(["[]", "{", "3", '{"eos_token_id": 99999999}', "[" * 9_999, " " * (2 << 20)])
        )
    elif kind == 2:
        names = [
            "adapter_config.json",
            "special_tokens_map.json",
            "preprocessor_config.json",
            "added_tokens.json",
            "quantize_config.json",
        ]
        (home / rng.choice(names)).write_text(
            json.dumps(rng.choice([value(rng), {"base_model_name_or_path": "evil/x", "peft_type": "LORA"}]))
        )
    else:
        code = "import os; os.mkdir('HACKED')"
        for name in ("modeling_llama.py", "configuration_llama.py", "custom_generate/generate.py", "__init__.py"):
            (home / name).parent.mkdir(exist_ok=True)
            (home / name).write_text(code)
        edited(
            home / "config.json",
            lambda c: c.update(auto_map={"AutoModelForCausalLM": "modeling_llama.X"}) if rng.random() < 0.5 else None,
        )
    return loading(rng, folder)


def odd_folder(rng: random.Random, folder: Path) -> list[str]:
    """Files missing, too large, links in a circle, or folders in their place."""
    home = model(folder)
    path = home / rng.choice(
        ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
    )
    path.unlink()
    rng.choice(
        [
            lambda: None,
            lambda: path.mkdir(),
            lambda: os.mkfifo(path),
            lambda: os.symlink(path, path),
            lambda: os.symlink("/dev/zero", path),
            lambda: os.symlink("/dev/full", path),
            lambda: path.write_bytes(rng.randbytes(1_000)),
            lambda: path.write_bytes(b'{"a": "' + b"x" * (50 << 20) + b'"}'),
            lambda: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 200 << 20),
            lambda: path.write_bytes(b"[" * 100_000),
            lambda: path.write_bytes(b'{"hidden_size": ' + b"9" * 6_000 + b"}"),
            lambda: path.write_text(json.dumps(value(rng))),
        ]
    )()
    return loading(rng, folder)
