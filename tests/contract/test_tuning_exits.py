"""The tuning Job's podFailurePolicy and reasons agree with what its containers really end with."""

import pytest

import adapter_packager.exits as packager
import model_server.exits as server
import tuner.exits as tuner
from tuner.config.keys import SECTIONS
from workspace_controller.inference_config import ConfigSource
from workspace_controller.tuning.exits import PERMANENT, REASONS
from workspace_controller.tuning.steps import CHECK, DATA, PACKAGER, TUNER, WEIGHTS
from workspace_controller.validation import training_config

CODES = {
    CHECK: packager.ExitCode,
    PACKAGER: packager.ExitCode,
    TUNER: tuner.ExitCode,
    WEIGHTS: server.ExitCode,
    DATA: server.ExitCode,
}
PASSING = {
    CHECK: {packager.ExitCode.REGISTRY_UNAVAILABLE, packager.ExitCode.CANCELLED, packager.ExitCode.UNEXPECTED},
    # A push that found no registry for all of push-hold is not tried again: the node is given back.
    PACKAGER: {packager.ExitCode.CANCELLED, packager.ExitCode.UNEXPECTED},
    TUNER: {tuner.ExitCode.DATA_UNAVAILABLE, tuner.ExitCode.INTERRUPTED},
    # A faulty pull is worth another pod; the engine's own codes never come from a fetch.
    WEIGHTS: {
        server.ExitCode.REGISTRY_UNAVAILABLE,
        server.ExitCode.ENGINE_FAILED,
        server.ExitCode.ENGINE_LACKS_GPU,
        server.ExitCode.OUT_OF_MEMORY,
    },
}
PASSING[DATA] = PASSING[WEIGHTS]


@pytest.mark.parametrize("container", sorted(CODES))
def test_permanent_codes_are_all_that_cannot_pass(container: str) -> None:
    wanted = {int(code) for code in CODES[container]} - {0} - {int(code) for code in PASSING[container]}
    assert set(PERMANENT[container]) == wanted


def test_the_tuner_says_itself_which_are_permanent() -> None:
    assert set(PERMANENT[TUNER]) == {int(code) for code in tuner.PERMANENT}


def test_a_code_of_the_tuner_means_what_the_tuner_says() -> None:
    codes = [code for code in tuner.REASONS if code is not tuner.ExitCode.INTERRUPTED]
    assert {int(code): str(tuner.REASONS[code]) for code in codes} == REASONS[TUNER]


def test_the_sections_of_the_configuration_are_the_tuner_s() -> None:
    assert sorted(training_config.SECTIONS) == sorted(SECTIONS)


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("four", ["true", "false", "'true'"])
def test_method_and_quantisation_are_judged_as_the_tuner_does(method: str, four: str) -> None:
    from tuner.config.recipe import Recipe, parse

    text = f"training_config: {{QuantizationConfig: {{load_in_4bit: {four}}}}}"
    source = ConfigSource(found=True, data={"training_config.yaml": text})
    ours = training_config.judge_training_config("tuned", source, method)
    assert (not ours) == isinstance(parse(text, method), Recipe)
