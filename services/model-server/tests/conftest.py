"""Fixtures: a tiny Phi-3 made on the spot, and one real server process that all engine tests share."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

import kaito_oci

MODEL_NAME = "phi-tiny"
START_SECONDS = 360

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
CORPUS = [
    "A workspace is applied and a pod answers.",
    "The quick brown fox jumps over the lazy dog while nodes come and go.",
    "Adapters are loaded by digest and never by restart.",
    "0123456789 the server drains, the queue is bounded, the port is open.",
]


def make_tiny_phi3(directory: Path) -> Path:
    """Write an untrained Phi3ForCausalLM (1 M parameters) with its own tokenizer and chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Phi3Config, Phi3ForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(7)
    special = ["<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|pad|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS * 20, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|endoftext|>", pad_token="<|pad|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    config = Phi3Config(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        original_max_position_embeddings=2048,
        eos_token_id=1,
        bos_token_id=0,
        pad_token_id=5,
        initializer_range=0.2,
    )
    model = Phi3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    for path in directory.iterdir():
        path.chmod(0o644)
    return directory


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_phi3(tmp_path_factory.mktemp("model"))


@dataclass
class ServerProcess:
    """A running `model-server serve`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    termination_log: Path
    temporary: Path
    """TMPDIR of the server, which it shares with nobody."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_ready(self, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                pytest.fail(f"server ended with {self.process.returncode}:\n{self.log.read_text()[-4000:]}")
            if self.get("/readyz")[0] == 200:
                return
            time.sleep(0.5)  # another process: no event to wait for
        pytest.fail(f"server not ready in {seconds} s:\n{self.log.read_text()[-4000:]}")

    def report(self) -> dict[str, object]:
        report: dict[str, object] = json.loads(self.termination_log.read_text())
        return report

    def litter(self) -> list[str]:
        """What the server left in its TMPDIR; compiled kernels are a cache and no litter."""
        return sorted(path.name for path in self.temporary.iterdir() if not path.name.startswith("torchinductor_"))

    def stop(self, seconds: float = 120) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


class ServerFactory:
    """Starts servers in a folder of their own; ends every one of them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._servers: list[ServerProcess] = []

    def start(
        self, model: Path, *arguments: str, engine: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> ServerProcess:
        number = len(self._servers)
        port = free_port()
        log = self._directory / f"server-{number}.log"
        termination_log = self._directory / f"termination-{number}.log"
        temporary = Path(tempfile.mkdtemp(prefix="msrv-"))  # pytest's own are too long for the name of a socket
        command = [sys.executable, "-m", "model_server", "serve", "--model", str(model)]
        command += ["--served-model-name", MODEL_NAME, "--port", str(port), "--host", "127.0.0.1", *arguments]
        command += ["--", *engine]
        environment = os.environ | {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(
                max(1, (os.cpu_count() or 2) - 1)
            ),  # as in a pod: one more waits for a core at every barrier
            "HF_HUB_OFFLINE": "1",
            "CXX": "no-compiler",  # as in the image
            "TMPDIR": str(temporary),
            "MODEL_SERVER_TERMINATION_LOG": str(termination_log),
            "MODEL_SERVER_ADAPTER_STORE": str(self._directory / f"store-{number}"),
            "MODEL_SERVER_ADAPTERS_DIR": str(self._directory / f"static-{number}"),
        }
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, stdout=sink, stderr=subprocess.STDOUT, env=environment | (env or {}), cwd=self._directory
            )
        server = ServerProcess(process, port, log, termination_log, temporary)
        self._servers.append(server)
        return server

    def close(self) -> None:
        for server in self._servers:
            if server.process.poll() is None:
                try:
                    server.stop()
                except subprocess.TimeoutExpired:
                    server.process.kill()
                    server.process.wait(10)
            shutil.rmtree(server.temporary, ignore_errors=True)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[ServerFactory]:
    factory = ServerFactory(tmp_path)
    yield factory
    factory.close()


ENGINE_ARGUMENTS = ("--enable-lora", "--max-loras=2", "--max-lora-rank=16", "--max-model-len=1024", "--max-num-seqs=8")


@pytest.fixture(scope="session")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for all tests that leave it as they found it."""
    factory = ServerFactory(tmp_path_factory.mktemp("server"))
    running = factory.start(tiny_model, engine=ENGINE_ARGUMENTS)
    running.wait_ready()
    yield running
    factory.close()


@pytest.fixture(scope="session")
def server_factory() -> type[ServerFactory]:
    return ServerFactory


@pytest.fixture(scope="session")
def a_port() -> Callable[[], int]:
    return free_port


@pytest.fixture(scope="session")
def adapter_maker() -> Callable[..., Path]:
    return make_adapter


PushImage = Callable[..., Awaitable[str]]


@pytest.fixture(scope="session")
def push() -> PushImage:
    """Push files as an image of one layer, by their names in its file system; returns `repo@digest`."""
    return push_image


async def push_image(reference: str, files: Mapping[str, Path], ca: Path | None = None) -> str:
    members = [kaito_oci.Member(name, path) for name, path in sorted(files.items())]
    layer = kaito_oci.TarBlob(members, "application/vnd.oci.image.layer.v1.tar")
    rootfs = {"type": "layers", "diff_ids": [layer.descriptor.digest]}
    config = kaito_oci.BytesBlob(
        json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode(),
        "application/vnd.oci.image.config.v1+json",
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": msgspec.to_builtins(config.descriptor),
        "layers": [msgspec.to_builtins(layer.descriptor)],
    }
    host = reference.partition("/")[0]
    how = kaito_oci.RegistrySettings(plain_http_hosts=[] if ca else [host], ca_bundle=str(ca or ""))
    result = await kaito_oci.push(reference, [config, layer], json.dumps(manifest).encode(), settings=how)
    return result.reference


def make_adapter(
    folder: Path, model: Path, *, seed: int, rank: int = 8, alpha: float = 16, hidden: int = 0, size: float = 0.3
) -> Path:
    """Write a PEFT adapter with random weights on the fused attention projections; they change every answer."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((model / "config.json").read_text())
    hidden = hidden or config["hidden_size"]
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, out in (("qkv_proj", 3 * hidden), ("o_proj", hidden)):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, hidden, generator=random) * size
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(out, rank, generator=random) * size
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "phi-tiny",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["qkv_proj", "o_proj"],
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
