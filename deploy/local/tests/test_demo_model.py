"""The demo model: its questions, its form in a registry, and that it really learns."""

import json
from pathlib import Path

import pytest

from kaito_local.demo_model.artifact import push_model
from kaito_local.demo_model.questions import load_pairs
from kaito_local.demo_model.train import CHAT_TEMPLATE, prompt
from kaito_local.ports import free_ports
from kaito_local.registry import Registry
from kaito_local.run.presets import DEMO_PRESETS, preset
from kaito_local.run.show import ASKED
from kaito_oci.pull import pull


def test_questions_are_all_different_and_short_enough() -> None:
    pairs = load_pairs()
    assert 16 <= len(pairs) <= 24
    assert len({pair.question for pair in pairs}) == len(pairs)
    assert all(0 < len(pair.answer) < 200 for pair in pairs)
    assert set(ASKED) <= {pair.question for pair in pairs}, "what `make run` asks must have been learnt"


def test_the_prompt_is_what_the_chat_template_writes() -> None:
    import jinja2

    written = jinja2.Template(CHAT_TEMPLATE).render(
        messages=[{"role": "user", "content": "Hi?"}], add_generation_prompt=True
    )
    assert written == prompt("Hi?")


@pytest.mark.parametrize("name", DEMO_PRESETS)
def test_the_catalog_knows_the_presets_that_it_stands_in_for(name: str) -> None:
    entry = preset(name)
    assert entry["architecture"] == "Phi3ForCausalLM"
    assert entry["image"]["repository"]


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_answers_word_for_word_in_every_precision(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kaito_local.demo_model.train import mistakes, train

    train(tmp_path)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
        assert mistakes(model.eval(), tokenizer, load_pairs()) == [], dtype
    model.model.layers[0].mlp.down_proj.weight.data.zero_()
    assert mistakes(model, tokenizer, load_pairs()), "a broken model must be found out"


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", ["", "workspace/weights"], ids=["artifact", "image"])
async def test_it_travels_through_a_registry_in_both_forms(tmp_path: Path, path: str) -> None:
    registry = Registry(tmp_path / "registry", port=free_ports(1)[0])
    host = await registry.up()
    try:
        first = await push_model(f"{host}/presets/phi:1", path, 8192, plain_http=True)
        again = await push_model(f"{host}/presets/phi:1", path, 8192, plain_http=True)
        assert (again.digest, again.uploaded) == (first.digest, 0)
        await pull(f"{host}/presets/phi:1", tmp_path / "pulled", plain_http_hosts=[host])
    finally:
        await registry.down()
    folder = tmp_path / "pulled" / path
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in folder.iterdir()}
    config = json.loads((folder / "config.json").read_text())
    assert config["max_position_embeddings"] == 8192
