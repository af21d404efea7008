"""The parts that need torch, on a tiny Phi-3 in this process."""

from __future__ import annotations

import dataclasses
import errno
import inspect
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from safetensors import SafetensorError

from kaito_local.demo_model.artifact import trained_model
from tuner import model, row_attention
from tuner.config import keys, reserved
from tuner.config.recipe import DatasetSettings, Quantization, Recipe, parse
from tuner.data.fetch import Fetched
from tuner.data.prepare import longest_first, prepare, split
from tuner.data.shapes import Message, RowError, Sample
from tuner.data.tokens import IGNORED, Encoder, MaskSource
from tuner.events import Emitter, Evaluated, Event, Note
from tuner.exits import ExitCode, FatalError
from tuner.job import Job
from tuner.memory import Sharding
from tuner.packing_check import packed_equals_single
from tuner.schedule import Hardware
from tuner.shortage import disk_full, out_of_memory
from tuner.train import Run

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

CPU = Hardware()
TALK = Sample(
    messages=(
        Message("user", "What is a Pod?"),
        Message("assistant", "A Pod."),
        Message("user", "And a node?"),
        Message("assistant", "A machine."),
    )
)
REWRITING = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + (m['content'] if loop.last else m['content'][:3]) + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'][:loop.index + 3] + '<|end|>' }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>!' }}{% endif %}"
)


def recipe(text: str = "", method: str = "qlora") -> Recipe:
    found = parse(text, method)
    assert isinstance(found, Recipe)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def folder() -> Path:
    return await trained_model()


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    return model.load_tokenizer(folder, recipe())


def test_the_tables_of_keys_are_those_of_the_installed_libraries() -> None:
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig
    from trl import SFTConfig

    def fields(kind: Any) -> set[str]:
        return {field.name for field in dataclasses.fields(kind) if field.init}

    assert set(keys.TRAINING) == fields(SFTConfig)
    assert set(keys.LORA) == fields(LoraConfig)
    known = set(inspect.signature(BitsAndBytesConfig.__init__).parameters) - {"self", "kwargs"}
    assert set(keys.QUANTIZATION) - {"quant_method"} == known
    assert not set(keys.REMOVED) & set(keys.TRAINING)
    assert set(reserved.INERT) | set(reserved.TRAINING) <= set(keys.TRAINING)
    assert set(reserved.LORA) | set(reserved.LORA_INERT) <= set(keys.LORA)


def trained_text(tokenizer: Any, encoder: Encoder, sample: Sample) -> str:
    tokens = encoder.encode(sample)
    return str(tokenizer.decode([label for label in tokens.labels if label != IGNORED]))


def test_the_loss_is_on_what_the_assistant_says_and_on_its_end(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer, max_length=400, assistant_only=None)
    assert trained_text(tokenizer, encoder, TALK) == "A Pod.<|end|>\nA machine.<|end|>\n"
    assert encoder.used == {MaskSource.TURNS}


@pytest.mark.parametrize(
    ("template", "expected", "used"),
    [
        (MARKED, "A Pod<|end|>A machi<|end|>", MaskSource.MARKERS),
        (REWRITING, None, MaskSource.NONE),
    ],
)
def test_templates_that_rewrite_earlier_turns(
    tokenizer: Any, template: str, expected: str | None, used: MaskSource
) -> None:
    tokenizer.chat_template = template
    encoder = Encoder(tokenizer, max_length=400, assistant_only=None)
    tokens = encoder.encode(TALK)
    assert tokens.whole_loss is (expected is None)
    assert trained_text(tokenizer, encoder, TALK) == (expected or encoder.render(TALK))
    assert encoder.used == {used}


def test_assistant_only_loss_that_was_demanded_is_never_given_up_silently(tokenizer: Any) -> None:
    tokenizer.chat_template = REWRITING
    with pytest.raises(RowError, match="cannot be found"):
        Encoder(tokenizer, max_length=400, assistant_only=True).encode(TALK)


def test_raw_text_ends_with_the_end_token_and_long_samples_are_cut(tokenizer: Any) -> None:
    tokens = Encoder(tokenizer, max_length=400, assistant_only=None).encode(Sample(text="What is a Pod?"))
    assert tokens.labels == tokens.ids
    assert tokens.ids[-1] == tokenizer.eos_token_id
    short = Encoder(tokenizer, max_length=5, assistant_only=None).encode(Sample(text="What is a Pod?"))
    assert (short.ids, short.cut) == (tokens.ids[:5], len(tokens.ids) - 5)


def fetched(path: Path, content: str) -> Fetched:
    path.write_text(content)
    return Fetched(path=str(path), shown=path.name, size=len(content), sha256="0" * 64)


def chat(question: str, answer: str) -> str:
    talk = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": talk}) + "\n"


def test_several_files_of_several_shapes_become_one_table(tokenizer: Any, tmp_path: Path) -> None:
    files = [
        fetched(tmp_path / "a.jsonl", chat("q", "a") * 3 + "broken\n" + chat("q", "")),
        fetched(tmp_path / "b.csv", 'prompt,completion\nhello,world\n"long",' + "word " * 300 + "\n"),
        fetched(tmp_path / "c.json", json.dumps([{"instruction": "i " * 300, "input": "", "output": "o"}])),
    ]
    encoder = Encoder(tokenizer, max_length=64, assistant_only=None)
    preview = prepare(files, DatasetSettings(), encoder, tmp_path / "made")
    assert [(source.format, source.shape, source.rows, source.used) for source in preview.sources] == [
        ("jsonl", "messages", 5, 3),
        ("csv", "prompt/completion", 2, 2),
        ("json", "alpaca", 1, 0),
    ]
    assert preview.bad_rows == {"not valid JSON": 1, "no turn of the assistant": 1}
    assert (preview.samples, preview.truncated, preview.without_loss, preview.longest) == (5, 1, 1, 64)
    assert sum(bucket.samples for bucket in preview.histogram) == 5
    assert len(preview.examples) == 3
    told = preview.told()
    assert "5 samples" in told
    assert "(longest 64; " in told
    assert "1 samples cut to the longest length" in told
    assert "2 of 8 rows skipped" in told
    assert told.count("sample: <|user|>") == 3
    files[0] = fetched(tmp_path / "a.jsonl", "gone")
    assert prepare(files, DatasetSettings(), encoder, tmp_path / "made") == preview


@pytest.mark.parametrize(
    ("content", "settings", "words"),
    [
        ("<html>404", DatasetSettings(), "rows: it is a web page"),
        ("foo,bar\n1,2\n", DatasetSettings(), "columns 'foo', 'bar' match no known form"),
        ('{"foo": 1}\n' * 5, DatasetSettings(), "columns 'foo' match no known form"),
        ('{"foo": 1}\n' * 11 + chat("q", "a") * 100, DatasetSettings(), "columns 'foo' match no known form"),
        ('{"foo": 1}\n' + chat("q", "a"), DatasetSettings(max_bad_rows=0), "1 of 1 rows cannot be used"),
        ('text\n"never closed\n' + "a\n" * 100, DatasetSettings(), "all 101 rows were skipped: not valid CSV"),
        ("text,more\n", DatasetSettings(), "holds no sample"),
        (chat("q", "a") * 100 + "broken\n" * 11, DatasetSettings(), "11 of 111 rows cannot be used.*not valid JSON"),
        (chat("q", "a") * 100 + "broken\n", DatasetSettings(max_bad_rows=0), "1 of 101 rows cannot be used"),
        (chat("q " * 100, "a"), DatasetSettings(), "nothing of the answers is left"),
        (chat("q", " "), DatasetSettings(), "all 1 rows were skipped: no turn of the assistant"),
    ],
)
def test_data_that_is_refused(
    tokenizer: Any, tmp_path: Path, content: str, settings: DatasetSettings, words: str
) -> None:
    encoder = Encoder(tokenizer, max_length=32, assistant_only=None)
    with pytest.raises(FatalError, match=words) as caught:
        prepare([fetched(tmp_path / "rows", content)], settings, encoder, tmp_path / "made")
    assert caught.value.code is ExitCode.DATA_INVALID
    assert not (tmp_path / "made" / "preview.json").exists()


def test_a_disk_that_the_tokens_fill_is_named(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "samples.arrow").symlink_to("/dev/full")
    encoder = Encoder(tokenizer, max_length=64, assistant_only=None)
    with pytest.raises(FatalError, match="No space left on device; give the pod more disk") as caught:
        prepare([fetched(tmp_path / "rows", chat("q", "a"))], DatasetSettings(), encoder, tmp_path / "made")
    assert caught.value.code is ExitCode.DISK_FULL


@pytest.mark.parametrize(
    ("broken", "why"),
    [('{"messages": ', "not valid JSON"), ('{"version": 1}', "its columns match no known form")],
)
@pytest.mark.parametrize("before", [0, 1500])
def test_one_broken_row_among_thousands_is_skipped(
    tokenizer: Any, tmp_path: Path, before: int, broken: str, why: str
) -> None:
    if before and why != "not valid JSON":
        why = "messages is not a list of turns"  # what rows mean is known by then
    content = chat("q", "a") * before + broken + "\n" + chat("q", "a") * (3000 - before)
    encoder = Encoder(tokenizer, max_length=64, assistant_only=None)
    preview = prepare([fetched(tmp_path / "rows", content)], DatasetSettings(), encoder, tmp_path / "made")
    assert (preview.rows, preview.samples, preview.bad_rows) == (3001, 3000, {why: 1})


@pytest.mark.parametrize(
    ("count", "share", "held"), [(100, 0.95, 5), (100, 1.0, 0), (19, 0.5, 0), (20, 0.99, 1), (100_000, 0.5, 1000)]
)
def test_the_split_is_whole_and_repeatable(count: int, share: float, held: int) -> None:
    settings = DatasetSettings(train_share=share)
    train, out = split(count, settings)
    assert len(out) == held
    assert sorted(train + out) == list(range(count))
    assert (train, out) == split(count, settings)
    assert count == 19 or train != sorted(train)


def test_a_dry_run_sees_the_longest_samples_first() -> None:
    assert longest_first([3, 0, 2, 1], [5, 9, 7, 8], 2) == [1, 3, 0, 2]
    assert longest_first([2, 0, 1], [1, 2, 3], 10) == [2, 1, 0]


def four_bit_layer(base: Any) -> Any:
    return next(module for module in base.modules() if type(module).__name__ == "Linear4bit")


def test_an_evaluation_takes_no_gradient_away_from_the_quantised_base(folder: Path) -> None:
    import torch
    from bitsandbytes.functional import dequantize_4bit

    base = model.load_base(folder, recipe(), CPU)
    assert packed_equals_single(base)  # a forward pass in eval mode
    layer = four_bit_layer(base)
    weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    given = torch.randn(3, weight.shape[1], dtype=torch.bfloat16, requires_grad=True)
    layer(given).float().sum().backward()
    assert given.grad is not None
    expected = weight.sum(dim=0).expand(3, -1)
    assert (given.grad.float() - expected).abs().max() < 0.05 * expected.abs().max()


class Leaky:
    """A real model whose caller changes what it is given."""

    def __init__(self, base: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._base = base
        self._change = change
        self.training = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def __call__(self, **arguments: Any) -> Any:
        return self._base(**self._change(arguments))


def test_packing_is_used_only_where_samples_do_not_touch(folder: Path) -> None:
    import torch

    base = model.load_base(folder, recipe(method="lora"), CPU)
    assert packed_equals_single(base)
    assert packed_equals_single(Leaky(base, lambda given: given))
    assert not packed_equals_single(Leaky(base, lambda given: {k: v for k, v in given.items() if k != "position_ids"}))
    assert not packed_equals_single(
        Leaky(base, lambda given: {**given, "attention_mask": torch.ones_like(given["input_ids"])})
    )


@pytest.mark.parametrize("window", [None, 4])
def test_attention_sample_by_sample_is_attention_over_the_masked_row(folder: Path, window: int | None) -> None:
    import torch

    lengths = [5, 1, 9]
    base = model.load_base(folder, recipe("training_config: {ModelConfig: {torch_dtype: float32}}", "lora"), CPU)
    base.config.sliding_window = window  # shorter than a sample: then the mask must be kept
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    starts = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    found = []
    for used in (False, True):
        assert not used or row_attention.use(base)
        embedded = base.get_input_embeddings()(torch.arange(20, 35)[None]).detach().requires_grad_()
        out = base(inputs_embeds=embedded, position_ids=positions, cu_seq_lens_q=starts, use_cache=False).logits
        out.square().sum().backward()
        found.append((out.detach(), embedded.grad))
    (whole, expected), (apart, gradient) = found
    assert (whole - apart).abs().max() < 1e-4 * whole.abs().max()
    assert (expected - gradient).abs().max() < 1e-4 * expected.abs().max()
    with torch.no_grad():
        one = base(
            inputs_embeds=embedded, position_ids=positions, cu_seq_lens_q=starts[[0, -1]], use_cache=False
        ).logits
    assert ((one - apart).abs().max() > 0.1) == (window is None), "the mask is used only where it must be"
    row_attention.leave(base)
    assert row_attention.use(base)
    base.set_attn_implementation("eager")
    assert not row_attention.use(base), "an attention that was asked for stays"


def test_a_layer_that_is_not_there_is_named(folder: Path) -> None:
    base = model.load_base(folder, recipe(method="lora"), CPU)
    wanted = recipe("training_config: {LoraConfig: {target_modules: [qkv_proj, q_proj]}}", "lora")
    with pytest.raises(FatalError, match=r"no layer q_proj; it has .*qkv_proj"):
        model.lora_config(wanted, base)


def test_a_cpu_shards_nothing_and_says_so(folder: Path) -> None:
    two = Hardware(processes=2)
    assert model.sharding(folder, recipe(), two, 512, "auto") is Sharding.DDP
    assert model.sharding(folder, recipe(), two, 512, "ddp") is Sharding.DDP
    with pytest.raises(FatalError, match="needs GPUs"):
        model.sharding(folder, recipe(), two, 512, "fsdp")
    base = model.load_base(folder, recipe(), CPU)
    assert model.decoder_layers(base) == ["Phi3DecoderLayer"]


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(FatalError) as caught:
        model.context_length(tmp_path)
    assert caught.value.code is ExitCode.WEIGHTS_MISSING


def job(folder: Path, tmp_path: Path, made: Recipe, rows: str) -> Job:
    return Job(
        recipe=made,
        model=str(folder),
        base_model="tiny",
        files=(fetched(tmp_path / "rows.jsonl", rows),),
        prepared=str(tmp_path / "prepared"),
        checkpoints=str(tmp_path / "checkpoints"),
        staging=str(tmp_path / "staging"),
        key="k",
    )


@pytest.mark.parametrize("packing", ["null", "true", "false"])
def test_what_was_trained_is_what_plain_peft_loads(folder: Path, tmp_path: Path, packing: str) -> None:
    import torch
    from peft import PeftModel

    made = recipe(
        f"training_config: {{TrainingArguments: {{max_steps: 3, packing: {packing}, learning_rate: 1e-2}}}}", "qlora"
    )
    run = Run(job(folder, tmp_path, made, chat("What is a Pod?", "Something new.") * 24), Emitter(""))
    run.execute()
    trained = run.trainer.model.eval()
    found_hardware = model.hardware()
    again = PeftModel.from_pretrained(model.load_base(folder, made, found_hardware), tmp_path / "staging").eval()
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        expected, found = trained(input_ids=ids).logits.float(), again(input_ids=ids).logits.float()
        untouched = model.load_base(folder, made, found_hardware)(input_ids=ids).logits.float()
    assert (expected - found).abs().max() < 0.1
    assert (expected - untouched).abs().max() > 1.0


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_that_took_the_base_apart_fits_the_whole_base(folder: Path, tmp_path: Path, init: str) -> None:
    import torch
    from peft import PeftModel

    made = recipe(
        f"training_config: {{ModelConfig: {{torch_dtype: float32}}, LoraConfig: {{init_lora_weights: {init}, r: 8}}, "
        "TrainingArguments: {max_steps: 3, learning_rate: 1e-3}}",
        "lora",
    )
    run = Run(job(folder, tmp_path, made, chat("What is a Pod?", "Something new.") * 24), Emitter(""))
    run.execute()
    trained = run.trainer.model.eval()
    config = json.loads((tmp_path / "staging" / "adapter_config.json").read_text())
    assert (config["r"], config["init_lora_weights"]) == (16, True)
    base = model.load_base(folder, made, CPU).eval()
    ids = torch.arange(20, 60)[None]
    with torch.no_grad():
        untouched = base(input_ids=ids).logits
        found = PeftModel.from_pretrained(base, tmp_path / "staging").eval()(input_ids=ids).logits.log_softmax(-1)
        expected = trained(input_ids=ids).logits.log_softmax(-1)
    top = expected.topk(20).indices
    assert (expected - found).gather(2, top).abs().max() < 1e-3
    assert (found - untouched.log_softmax(-1)).abs().max() > 0.1


def test_training_ends_early_when_the_held_out_loss_stays(folder: Path, tmp_path: Path) -> None:
    text = (
        "training_config: {TrainingArguments: {max_steps: 8, save_steps: 1, eval_steps: 1, learning_rate: 1e-3, "
        "early_stopping_patience: 2, early_stopping_threshold: 100}%s}"
    )
    rows = chat("What is a Pod?", "Something new.") * 24
    run = Run(job(folder, tmp_path, recipe(text % ""), rows), Emitter(""))
    run.execute()
    report = json.loads((tmp_path / "staging" / "training_report.json").read_text())
    assert report["metrics"]["steps"] == 3
    assert report["ended"].startswith("It ended after step 3 of 8")
    assert run.trainer.state.best_model_checkpoint.endswith("checkpoint-3")
    nothing_held_out = recipe(text % ", DatasetConfig: {train_test_split: 1}")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(FatalError, match="needs held-out samples"):
        Run(job(folder, other, nothing_held_out, rows), Emitter("")).execute()


def test_the_model_takes_the_memory_that_was_predicted(folder: Path, tmp_path: Path) -> None:
    """Exact for what the model itself holds: base, adapter, gradients, optimizer."""
    from tuner.memory import predict

    for method in ("lora", "qlora"):
        made = recipe("training_config: {TrainingArguments: {max_steps: 1}}", method)
        place = tmp_path / method
        place.mkdir()
        run = Run(job(folder, place, made, chat("What is a Pod?", "Something new.") * 24), Emitter(""))
        run.execute()
        shapes, precision = model.shapes(run.trainer.model, made)
        parts = predict(shapes, precision, 1, recomputed=False)
        assert model.held_bytes(run.trainer) == pytest.approx(parts.model, rel=0.01)


def test_a_loss_that_is_no_number_ends_the_training_with_its_reason(folder: Path, tmp_path: Path) -> None:
    made = recipe(
        "training_config: {ModelConfig: {torch_dtype: float32}, TrainingArguments: {max_steps: 8, learning_rate: 1e30, "
        "max_grad_norm: 1e30, warmup_steps: 0}}",
        "lora",
    )
    run = Run(job(folder, tmp_path, made, chat("What is a Pod?", "Something new.") * 24), Emitter(""))
    with pytest.raises(FatalError, match=r"the loss became .* at step \d: lower the learning rate") as caught:
        run.execute()
    assert caught.value.code is ExitCode.TRAINING_FAILED


def test_memory_that_runs_out_is_told_from_other_errors() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert out_of_memory(caught.value)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert not out_of_memory(OSError(errno.ENOSPC, "out of memory is not what this is"))
    assert not out_of_memory(RuntimeError("shapes do not match"))


def test_8_bits_are_asked_for_as_8_bits() -> None:
    found = recipe("training_config: {QuantizationConfig: {load_in_8bit: true}}")
    assert found.quantization == Quantization(bits=8)


TORCH_AT_ITS_LIMIT = """
import resource, signal, sys, torch
from tuner.train import disk_full, out_of_memory

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    torch.save({"state": torch.zeros(1 << 20)}, sys.argv[1])
except Exception as error:
    print(disk_full(error), out_of_memory(error))
"""


def test_a_full_disk_is_known_by_its_errors(tmp_path: Path) -> None:
    """Adapter and optimizer of a checkpoint are written by libraries that tell it in errors of their own."""
    run = [sys.executable, "-c", TORCH_AT_ITS_LIMIT, str(tmp_path / "optimizer.pt")]
    assert subprocess.run(run, capture_output=True, check=True, text=True).stdout.split() == ["True", "False"]
    assert disk_full(SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert disk_full(OSError(errno.ENOSPC, "No space left on device"))
    assert disk_full(OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert not disk_full(OSError(errno.EIO, "Input/output error"))
    assert not disk_full(
        RuntimeError("PytorchStreamReader failed reading zip archive: failed finding central directory")
    )


@pytest.mark.parametrize("loss", [1.5, math.nan, math.inf])
def test_a_held_out_loss_that_is_no_number_is_said_in_words(tmp_path: Path, loss: float) -> None:
    from transformers import TrainerState

    from tuner.callbacks import RunCallback

    heard: list[Event] = []
    callback = RunCallback(heard.append, tmp_path, "k", first=True)  # type: ignore[arg-type]  # an Emitter without a socket
    callback.on_evaluate(None, TrainerState(global_step=7), None, metrics={"eval_loss": loss})
    (event,) = heard
    if math.isfinite(loss):
        assert event == Evaluated(step=7, loss=loss)
    else:
        assert isinstance(event, Note)
        assert f"is {loss} after step 7" in event.message
