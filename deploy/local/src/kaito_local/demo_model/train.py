"""Trains the demo model: ``python -m kaito_local.demo_model.train FOLDER``.

A program of its own, because it imports torch, which the caller should not have to.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from kaito_local.demo_model.questions import Pair, load_pairs

PAD, END, USER, ASSISTANT, SYSTEM = "<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
VOCABULARY = 1024
SEED = 20260101
_LEARNING_RATE = 2e-3
_MAX_STEPS = 400
_IGNORED = -100  # the label that transformers' loss leaves out
# Mean loss over the answers' tokens at which greedy answers stay exact in bfloat16 and float16 too.
_LOSS_GOAL = 0.002

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def prompt(question: str) -> str:
    """A question as the chat template writes it."""
    return f"{USER}\n{question}{END}\n{ASSISTANT}\n"


def train(folder: Path) -> float:
    """Train and save tokenizer and model; returns the last loss. Raises RuntimeError when an answer is not exact."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(SEED)
    # One thread: the model is so small that threads mostly wait for each other, and the result is the same on any machine.
    torch.set_num_threads(1)
    pairs = load_pairs()
    tokenizer = _tokenizer(pairs)
    model = _model(tokenizer)
    loss = _fit(model, tokenizer, pairs)
    wrong = mistakes(model.eval(), tokenizer, pairs)
    if wrong:
        message = f"the demo model did not learn to answer: {', '.join(wrong)}"
        raise RuntimeError(message)
    folder.mkdir(parents=True, exist_ok=True)
    # So small a model is sure of little: at a temperature of 1 it answers in fragments. Servers take this as their default.
    model.generation_config.do_sample, model.generation_config.temperature = True, 0.2
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # transformers writes weights with mode 0600, which a container's user cannot read
    return loss


def mistakes(model: Any, tokenizer: Any, pairs: list[Pair]) -> list[str]:
    """The questions that the model does not answer word for word.

    Greedy decoding gives the answer exactly when each of its tokens is the likeliest one after those before it, so one
    pass over all answers tells what decoding them token by token would.
    """
    import torch

    batch, labels = _batch(tokenizer, pairs)
    with torch.inference_mode():
        likeliest = model(**batch).logits[:, :-1].argmax(-1)
    wanted = labels[:, 1:]
    wrong = ((likeliest != wanted) & (wanted != _IGNORED)).any(dim=1)
    return [pair.question for pair, missed in zip(pairs, wrong.tolist(), strict=True) if missed]


def _tokenizer(pairs: list[Pair]) -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    raw = ByteLevelBPETokenizer()
    specials = [PAD, END, USER, ASSISTANT, SYSTEM]
    texts = [f"{pair.question}\n{pair.answer}" for pair in pairs]
    raw.train_from_iterator(texts, vocab_size=VOCABULARY, min_frequency=1, special_tokens=specials, show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw._tokenizer,  # the only way from a trained tokenizer to transformers
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def _model(tokenizer: Any) -> Any:
    from transformers import Phi3Config, Phi3ForCausalLM

    config = Phi3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        original_max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Phi3ForCausalLM(config).float()


def _batch(tokenizer: Any, pairs: list[Pair]) -> tuple[Any, Any]:
    """All pairs as tokens, and the labels.

    Only answers are learnt: which question comes next cannot be known, and would keep the loss from its goal.
    """
    texts = [f"{prompt(pair.question)}{pair.answer}{END}" for pair in pairs]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, _IGNORED)
    for row, pair in enumerate(pairs):
        labels[row, : len(tokenizer(prompt(pair.question), add_special_tokens=False)["input_ids"])] = _IGNORED
    return batch, labels


def _fit(model: Any, tokenizer: Any, pairs: list[Pair]) -> float:
    import torch

    batch, labels = _batch(tokenizer, pairs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.0)
    last = float("inf")
    for _ in range(_MAX_STEPS):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = float(loss.detach())
        if last < _LOSS_GOAL:
            break
    return last


def main() -> None:
    """Train into the folder that is named on the command line."""
    parser = argparse.ArgumentParser(description="train the demo model")
    parser.add_argument("folder", type=Path)
    loss = train(parser.parse_args().folder)
    sys.stdout.write(f"loss {loss:.5f}\n")


if __name__ == "__main__":
    main()
