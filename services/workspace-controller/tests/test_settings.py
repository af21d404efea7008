"""Flags and environment become settings; nonsense names its flag."""

from __future__ import annotations

import argparse

import pytest

from workspace_controller.settings import (
    ClaimApi,
    LoraDefaults,
    NodeClassRef,
    Settings,
    TuningSettings,
    planning_arguments,
    planning_settings,
)


def read(*argv: str, **environment: str) -> Settings:
    parser = argparse.ArgumentParser()
    planning_arguments(parser, environment)
    return planning_settings(parser.parse_args(argv))


def test_defaults_are_the_structs() -> None:
    assert read() == Settings()


def test_flags_win_over_the_environment() -> None:
    found = read("--claim-api=machine", WORKSPACE_CONTROLLER_CLAIM_API="nodeclaim", WORKSPACE_CONTROLLER_LORA_SLOTS="2")
    assert found.claim_api is ClaimApi.MACHINE
    assert found.lora == LoraDefaults(slots=2)


def test_everything_can_be_said() -> None:
    found = read(
        "--preset-registry=10.0.0.1:5000/kaito",
        "--plain-http-hosts=10.0.0.1:5000, localhost:5000",
        "--trusted-realms=login.corp, sso.corp:8443",
        "--registry-ca=/etc/ca.pem",
        "--weights-from=hf",
        "--engine-images=cpu=reg/ms@sha256:aa,gpu=reg/ms:1",
        "--engine-override=cpu",
        "--node-class=karpenter.azure.com/AKSNodeClass/gpu",
        "--node-image-family=azurelinux",
        "--lora-rank=128",
        "--server-cpu=500m",
        "--server-memory=3Gi",
        "--tuner-scratch-gib=50",
        "--allow-template=false",
        "--allow-host-path=false",
    )
    assert found == Settings(
        preset_registry="10.0.0.1:5000/kaito",
        plain_http_hosts=frozenset({"10.0.0.1:5000", "localhost:5000"}),
        trusted_realms=frozenset({"login.corp", "sso.corp:8443"}),
        registry_ca="/etc/ca.pem",
        weights_from="hf",
        engine_images={"cpu": "reg/ms@sha256:aa", "gpu": "reg/ms:1"},
        engine_override="cpu",
        node_class=NodeClassRef(group="karpenter.azure.com", kind="AKSNodeClass", name="gpu"),
        node_image_family="azurelinux",
        lora=LoraDefaults(rank=128),
        server_cpu="500m",
        server_memory="3Gi",
        tuning=TuningSettings(scratch_gib=50),
        allow_template=False,
        allow_host_path=False,
    )


@pytest.mark.parametrize(
    "flag",
    [
        "--preset-registry=",
        "--weights-from=s3",
        "--engine-images=cpu",
        "--claim-api=pod",
        "--node-class=AKSNodeClass",
        "--node-image-family=windows",
        "--lora-slots=-1",
        "--lora-rank=48",
        "--server-cpu=fast",
        "--server-memory=3 GB",
        "--tuner-scratch-gib=0",
        "--tuner-scratch-gib=20Gi",
        "--allow-template=maybe",
    ],
)
def test_nonsense_names_its_flag(flag: str) -> None:
    with pytest.raises(ValueError, match=flag.partition("=")[0]):
        read(flag)
