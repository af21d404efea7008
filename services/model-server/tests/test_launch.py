"""launch.plan and arguments: the planner's arguments, the user's file and the contract, merged."""

from __future__ import annotations

import pytest

from model_server import arguments, config_file, launch
from model_server.arguments import ArgumentError, Option, OptionKind
from model_server.config_file import InferenceConfig
from model_server.dtype import Bound, Device
from model_server.exits import ExitCode, FatalError

OPTIONS = [
    Option("model", OptionKind.VALUE),
    Option("served-model-name", OptionKind.LIST),
    Option("host", OptionKind.VALUE),
    Option("port", OptionKind.VALUE),
    Option("dtype", OptionKind.VALUE),
    Option("max-model-len", OptionKind.VALUE),
    Option("max-num-seqs", OptionKind.VALUE),
    Option("max-loras", OptionKind.VALUE),
    Option("max-cpu-loras", OptionKind.VALUE),
    Option("enable-lora", OptionKind.TOGGLE),
    Option("enforce-eager", OptionKind.TOGGLE),
    Option("disable-log-stats", OptionKind.FLAG),
    Option("disable-access-log-for-endpoints", OptionKind.VALUE),
    Option("compilation-config", OptionKind.VALUE),
    Option("allowed-origins", OptionKind.LIST),
    Option("seed", OptionKind.VALUE),
    Option("lora-modules", OptionKind.LIST),
    Option("api-key", OptionKind.VALUE),
]
TABLE = {option.name: option for option in OPTIONS}
TABLE |= {f"no-{option.name}": option for option in OPTIONS if option.kind is OptionKind.TOGGLE}
TABLE["cc"] = TABLE["compilation-config"]
CPU = Device(kind="cpu", name="CPU")


def planned(*engine: str, bound: Bound = Bound.BFLOAT16) -> launch.Planned:
    return launch.Planned(
        model="/w", served_model_name="phi", host="", port=5000, bound=bound, engine_arguments=tuple(engine)
    )


def argv(*engine: str, **settings: object) -> list[str]:
    config = InferenceConfig(vllm={key.replace("__", "."): value for key, value in settings.items()})
    return list(launch.plan(planned(*engine), config, CPU, TABLE, "bfloat16").argv)


def test_the_contract_is_always_there() -> None:
    assert argv() == [
        "--disable-access-log-for-endpoints=/health,/readyz,/metrics",
        "--dtype=bfloat16",
        "--model=/w",
        "--port=5000",
        "--served-model-name",
        "phi",
    ]


@pytest.mark.parametrize(
    ("engine", "settings", "expected", "absent"),
    [
        (("--max-model-len=2048",), {"max-model-len": 1024}, "--max-model-len=1024", "--max-model-len=2048"),
        (("--max-model-len", "2048"), {"max_model_len": "auto"}, "--max-model-len=auto", "--max-model-len=2048"),
        (("--enforce-eager",), {"enforce-eager": False}, "--no-enforce-eager", "--enforce-eager"),
        (("--no-enforce-eager",), {"enforce_eager": True}, "--enforce-eager", "--no-enforce-eager"),
        ((), {"disable-log-stats": True}, "--disable-log-stats", ""),
        ((), {"disable-log-stats": False}, "--dtype=bfloat16", "--disable-log-stats"),
        ((), {"seed": -1}, "--seed=-1", ""),
        (("--seed", "-5"), {}, "--seed=-5", ""),
        (
            (),
            {"compilation-config": {"pass_config": {"x": False}}},
            '--compilation-config={"pass_config": {"x": false}}',
            "",
        ),
        (("-cc.pass_config.x=1",), {}, "--compilation-config.pass_config.x=1", ""),
    ],
)
def test_the_users_file_wins(engine: tuple[str, ...], settings: dict[str, object], expected: str, absent: str) -> None:
    result = argv(*engine, **settings)
    assert expected in result
    assert absent not in result


def test_lists_are_written_as_separate_tokens() -> None:
    result = argv(**{"allowed-origins": ["a", "b"]})
    position = result.index("--allowed-origins")
    assert result[position : position + 3] == ["--allowed-origins", "a", "b"]


@pytest.mark.parametrize(
    "settings",
    [
        {"port": 80},
        {"model": "x"},
        {"served_model_name": "x"},
        {"no-enable-lora": True},
        {"lora-modules": ["a=b"]},
        {"api-key": "s3cret"},
    ],
)
def test_keys_of_the_contract_are_refused_by_name_with_a_reason(settings: dict[str, object]) -> None:
    with pytest.raises(FatalError) as caught:
        argv(**settings)
    assert caught.value.code is ExitCode.CONFIG_INVALID
    name = next(iter(settings)).replace("_", "-").removeprefix("no-")
    assert f"{name} ({launch.REFUSED[name]})" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max-model-lenn": 5}, "did you mean max-model-len"),
        ({"max-model-lenn": 5, "frobnicate": 1}, "no option frobnicate"),
        ({"enforce-eager": "yes"}, "write true or false"),
        ({"max-model-len": None}, "needs a value"),
        ({"max-model-len": 5, "max_model_len": 6}, "given twice"),
        ({"enforce-eager": True, "no-enforce-eager": True}, "given twice"),
        ({"allowed-origins": []}, "at least one"),
    ],
)
def test_bad_files_say_what_is_wrong(settings: dict[str, object], words: str) -> None:
    with pytest.raises(FatalError, match=words) as caught:
        argv(**settings)
    assert caught.value.code is ExitCode.CONFIG_INVALID


@pytest.mark.parametrize("engine", [("--nope",), ("stray",), ("--max-model-len",), ("--enforce-eager=1",)])
def test_bad_planned_arguments_are_a_usage_error(engine: tuple[str, ...]) -> None:
    with pytest.raises(FatalError) as caught:
        argv(*engine)
    assert caught.value.code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (("--enable-lora",), "12"),
        (("--enable-lora", "--max-loras=16"), "18"),
        (("--enable-lora", "--max-cpu-loras=40"), "40"),
        (("--enable-lora", "--max-cpu-loras=4"), "12"),
    ],
)
def test_the_host_cache_holds_every_adapter_and_those_being_drained(engine: tuple[str, ...], expected: str) -> None:
    assert f"--max-cpu-loras={expected}" in argv(*engine)


def test_without_lora_nothing_is_said_about_adapters() -> None:
    assert not [token for token in argv() if "lora" in token]


def test_an_override_is_noted() -> None:
    config = InferenceConfig(vllm={"max-model-len": 1024})
    plan = launch.plan(planned("--max-model-len=2048"), config, CPU, TABLE, "")
    assert plan.notes == ("inference_config.yaml sets max-model-len to 1024 (planned: 2048)",)


def test_equal_settings_give_equal_lists() -> None:
    assert argv("--seed=1", "--max-num-seqs=2") == argv("--max-num-seqs", "2", "--seed", "1")


def test_write_read_round_trip() -> None:
    tokens = ["--allowed-origins", "a", "b", "--enforce-eager", "--seed=-1"]
    assert arguments.write(arguments.read(tokens, TABLE), TABLE) == tokens


def test_every_refused_name_has_a_reason() -> None:
    assert all(launch.REFUSED.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("vllm:\n", {}),
        ("vllm:\n  max-model-len: 2048\n", {"max-model-len": 2048}),
    ],
)
def test_parse(text: str, expected: dict[str, object]) -> None:
    assert config_file.parse(text, "f").vllm == expected


def test_kaitos_own_keys_are_accepted_and_noted() -> None:
    config = config_file.parse("max_probe_steps: 6\nkv_cache_cpu_memory_utilization: 0.5\nvllm: {seed: 1}\n", "f")
    assert config.vllm == {"seed": 1}
    assert len(config.notes) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vllm: {a: 1", "not valid YAML"),
        ("- a", "must be a mapping"),
        ("vllm: [1]", "must be a mapping"),
        ("vlm: {}", "unknown top-level keys: vlm"),
        ("vllm:\n  a: 1\n  a: 2\n", "the key 'a' is written twice at line 3"),
        ("a: &a [x]\nvllm: *a", r"the alias \*a must stand for a single value"),
        ("vllm: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_parse_refuses(text: str, words: str) -> None:
    with pytest.raises(FatalError, match=words) as caught:
        config_file.parse(text, "inference_config.yaml")
    assert caught.value.code is ExitCode.CONFIG_INVALID


def test_unknown_option_alone() -> None:
    with pytest.raises(ArgumentError, match="no option zzz"):
        arguments.find("zzz", TABLE)
