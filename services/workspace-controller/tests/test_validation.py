"""Each kind of bad input gets the right field, reason and a message that says what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kaito_api.conditions import Reason
from kaito_api.core import Node
from kaito_api.workspace import Workspace
from workspace_controller.catalog import Catalog
from workspace_controller.inference_config import CONFIG_KEY, ConfigSource
from workspace_controller.settings import Settings
from workspace_controller.validation import Verdict, validate

MakeWorkspace = Callable[..., Workspace]
MakeNode = Callable[..., Node]


def judged(workspace: Workspace, catalog: Catalog, config: str | None = None, **more: object) -> Verdict:
    source = None if config is None else ConfigSource(found=True, data={CONFIG_KEY: config})
    return validate(workspace, catalog, Settings(), config=source, **more)  # type: ignore[arg-type]


GOOD = {
    "as it is": "",
    "v100, as in the example": "{resource: {instanceType: Standard_NC6s_v3}}",
    "instance type in another case": "{resource: {instanceType: standard_nc6S_V3}}",
    "preset by Hugging Face id": "{inference: {preset: {name: Microsoft/Phi-4}}}",
    "preset by alias": "{inference: {preset: {name: PHI4}}}",
    "matchExpressions that name one value": """
        resource: {labelSelector: {matchLabels: null, matchExpressions: [{key: a, operator: In, values: [b]}]}}""",
    "name of 63 characters": f"{{metadata: {{name: {'n' * 63}}}}}",
    "adapters": """
        inference:
          adapters:
            - {source: {name: one, image: "registry:5000/adapters/one:0.0.1"}, strength: "1.0"}
            - {source: {name: two, image: "REGISTRY/adapter@sha256:%s"}}
            - {source: {name: three, volumeSource: {emptyDir: {}}}, strength: "0"}"""
    % ("a" * 64),
    "template": "{inference: {preset: null, template: {spec: {containers: [{name: x, image: y}]}}}}",
    "tuning": """
        inference: null
        tuning:
          preset: {name: phi-4}
          method: qlora
          input: {urls: ["https://example.org/data.parquet"]}
          output: {image: "registry/out:1", imagePushSecret: push}""",
    "unlisted machine with the annotation": """
        metadata: {annotations: {kaito.sh/bypass-resource-checks: "yes"}}
        resource: {instanceType: Standard_NC999}""",
}


@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD.keys())
def test_good_workspaces(changes: str, workspace: MakeWorkspace, catalog: Catalog) -> None:
    verdict = judged(workspace(changes), catalog)
    assert verdict.errors == ()
    assert verdict.sizing is not None


BAD: dict[str, tuple[str, str, Reason, str]] = {
    "unknown preset": (
        "{inference: {preset: {name: phi-3-mini-4k-instuct}}}",
        "inference.preset.name",
        Reason.PRESET_UNKNOWN,
        "did you mean phi-3-mini-4k-instruct",
    ),
    "unknown instance type": (
        "{resource: {instanceType: Standard_NC24ads_A100_v5}}",
        "resource.instanceType",
        Reason.INSTANCE_TYPE_UNKNOWN,
        "did you mean Standard_NC24ads_A100_v4",
    ),
    "both": (
        "{tuning: {preset: {name: phi-4}, method: lora, input: {image: a}, output: {volumeSource: {emptyDir: {}}}}}",
        "inference",
        Reason.SPEC_INVALID,
        "both set",
    ),
    "neither": ("{inference: null}", "inference", Reason.SPEC_INVALID, "neither inference nor tuning"),
    "no resource": ("{resource: null}", "resource", Reason.SPEC_INVALID, "resource.labelSelector"),
    "selector operator": (
        "{resource: {labelSelector: {matchExpressions: [{key: a, operator: NotIn, values: [b]}]}}}",
        "resource.labelSelector",
        Reason.SELECTOR_INVALID,
        "use matchLabels, or operator In with one value",
    ),
    "selector with two values": (
        "{resource: {labelSelector: {matchExpressions: [{key: a, operator: In, values: [b, c]}]}}}",
        "resource.labelSelector",
        Reason.SELECTOR_INVALID,
        "does not name exactly one value",
    ),
    "selector that contradicts itself": (
        "{resource: {labelSelector: {matchExpressions: [{key: apps, operator: In, values: [other]}]}}}",
        "resource.labelSelector",
        Reason.SELECTOR_INVALID,
        "both 'phi' and 'other'",
    ),
    "selector of reserved keys": (
        "{resource: {labelSelector: {matchLabels: {apps: null, kaito.sh/workspace: x}}}}",
        "resource.labelSelector",
        Reason.SELECTOR_INVALID,
        "add a label of your own",
    ),
    "selector with an illegal value": (
        "{resource: {labelSelector: {matchLabels: {apps: 'a b'}}}}",
        "resource.labelSelector",
        Reason.SELECTOR_INVALID,
        "not a legal label value",
    ),
    "every node of the cluster": (
        "{resource: {instanceType: null, labelSelector: {matchLabels: null}}}",
        "resource.labelSelector",
        Reason.SELECTOR_INVALID,
        "would take every node",
    ),
    "name with dots": ("{metadata: {name: a.b}}", "metadata.name", Reason.SPEC_INVALID, "no dots"),
    "name with a leading digit": ("{metadata: {name: 1a}}", "metadata.name", Reason.SPEC_INVALID, "a letter first"),
    "name of 64": (f"{{metadata: {{name: {'n' * 64}}}}}", "metadata.name", Reason.SPEC_INVALID, "this has 64"),
    "partition": (
        "{resource: {partition: {mode: mig, profile: 1g.10gb}}}",
        "resource.partition",
        Reason.SPEC_INVALID,
        "not supported yet",
    ),
    "preset and template": (
        "{inference: {template: {spec: {containers: [{name: x}]}}}}",
        "inference.preset",
        Reason.SPEC_INVALID,
        "keep one",
    ),
    "neither preset nor template": (
        "{inference: {preset: null}}",
        "inference.preset",
        Reason.SPEC_INVALID,
        "neither preset nor template",
    ),
    "template without containers": (
        "{inference: {preset: null, template: {spec: {}}}}",
        "inference.template.spec.containers",
        Reason.SPEC_INVALID,
        "at least one container",
    ),
    "template of another shape": (
        "{inference: {preset: null, template: {spec: {containers: [{name: x}], affinity: near}}}}",
        "inference.template.spec.affinity",
        Reason.SPEC_INVALID,
        "Expected `object | null`, got `str`",
    ),
    "template that is placed by a word": (
        """
        inference:
          preset: null
          template:
            spec:
              containers: [{name: x}]
              affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [here]}}}""",
        "inference.template.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
        ".nodeSelectorTerms[0]",
        Reason.SPEC_INVALID,
        "got `str`",
    ),
    "transformers": (
        "{metadata: {annotations: {kaito.sh/runtime: transformers}}}",
        "metadata.annotations[kaito.sh/runtime]",
        Reason.SPEC_INVALID,
        "remove the annotation",
    ),
    "annotation value": (
        "{metadata: {annotations: {kaito.sh/performance-mode: balance}}}",
        "metadata.annotations[kaito.sh/performance-mode]",
        Reason.SPEC_INVALID,
        "did you mean balanced",
    ),
    "weights of a claim that can be none": (
        "{metadata: {annotations: {kaito.sh/weights-claim: My Models}}}",
        "metadata.annotations[kaito.sh/weights-claim]",
        Reason.SPEC_INVALID,
        "must be the name of a PersistentVolumeClaim, not 'My Models'",
    ),
    "weights of no image": (
        "{inference: {preset: {presetOptions: {image: 'registry.local/Phi 3'}}}}",
        "inference.preset.presetOptions.image",
        Reason.SPEC_INVALID,
        "is not an image reference",
    ),
    "API keys of no Secret": (
        "{metadata: {annotations: {kaito.sh/api-key-secret: ''}}}",
        "metadata.annotations[kaito.sh/api-key-secret]",
        Reason.SPEC_INVALID,
        "must be the name of a Secret, not ''",
    ),
    "API keys of a Secret elsewhere": (
        "{metadata: {annotations: {kaito.sh/api-key-secret: other/keys}}}",
        "metadata.annotations[kaito.sh/api-key-secret]",
        Reason.SPEC_INVALID,
        "must be the name of a Secret",
    ),
    "API keys with a template": (
        """
        metadata: {annotations: {kaito.sh/api-key-secret: keys}}
        inference: {preset: null, template: {spec: {containers: [{name: x}]}}}""",
        "metadata.annotations[kaito.sh/api-key-secret]",
        Reason.SPEC_INVALID,
        "let your own container ask",
    ),
    "adapters though LoRA is off": (
        """
        metadata: {annotations: {kaito.sh/lora: disabled}}
        inference: {adapters: [{source: {name: a, image: b}}]}""",
        "inference.adapters",
        Reason.ADAPTERS_UNSUPPORTED,
        "kaito.sh/lora is disabled",
    ),
    "adapters on a model without LoRA": (
        "{inference: {preset: {name: no-lora}, adapters: [{source: {name: a, image: b}}]}}",
        "inference.adapters",
        Reason.ADAPTERS_UNSUPPORTED,
        "no-lora does not support LoRA",
    ),
    "two adapters of one name": (
        "{inference: {adapters: [{source: {name: a, image: b}}, {source: {name: a, image: c}}]}}",
        "inference.adapters[1].source.name",
        Reason.SPEC_INVALID,
        "names are unique",
    ),
    "adapter named as the model": (
        "{inference: {adapters: [{source: {name: phi-3-mini-4k-instruct, image: b}}]}}",
        "inference.adapters[0].source.name",
        Reason.SPEC_INVALID,
        "name of the base model",
    ),
    "adapter without a name": (
        "{inference: {adapters: [{source: {image: b}}]}}",
        "inference.adapters[0].source.name",
        Reason.SPEC_INVALID,
        "is missing",
    ),
    "adapter from two sources": (
        "{inference: {adapters: [{source: {name: a, image: b, volumeSource: {emptyDir: {}}}}]}}",
        "inference.adapters[0].source",
        Reason.SPEC_INVALID,
        "image and volumeSource",
    ),
    "adapter from a URL": (
        "{inference: {adapters: [{source: {name: a, urls: ['https://example.org/a']}}]}}",
        "inference.adapters[0].source.urls",
        Reason.SPEC_INVALID,
        "image or a volume",
    ),
    "adapter image in upper case": (
        "{inference: {adapters: [{source: {name: a, image: 'reg.io/Upper/Case:1'}}]}}",
        "inference.adapters[0].source.image",
        Reason.SPEC_INVALID,
        "not an image reference",
    ),
    "strength": (
        "{inference: {adapters: [{source: {name: a, image: b}, strength: '1.5'}]}}",
        "inference.adapters[0].strength",
        Reason.SPEC_INVALID,
        "from 0 to 1",
    ),
    "strength with the annotation": (
        "{metadata: {annotations: {kaito.sh/allow-adapter-strength-above-one: 'true'}}, "
        "inference: {adapters: [{source: {name: a, image: b}, strength: '4.5'}]}}",
        "inference.adapters[0].strength",
        Reason.SPEC_INVALID,
        "from 0 to 4",
    ),
    "strength that is no number": (
        "{inference: {adapters: [{source: {name: a, image: b}, strength: 'NaN'}]}}",
        "inference.adapters[0].strength",
        Reason.SPEC_INVALID,
        "from 0 to 1",
    ),
    "eleven adapters": (
        "{inference: {adapters: [" + ", ".join(f"{{source: {{name: a{n}, image: b}}}}" for n in range(11)) + "]}}",
        "inference.adapters",
        Reason.SPEC_INVALID,
        "at most 10",
    ),
    "no engine for the GPU": (
        "{resource: {instanceType: Standard_Kepler_v1}}",
        "resource.instanceType",
        Reason.ENGINE_LACKS_GPU,
        "gpu has kernels for 7.5 and up; gpu-sm70 has kernels for 7.0 to 7.4",
    ),
    "tuning without output": (
        "{inference: null, tuning: {preset: {name: phi-4}, method: lora, input: {image: a}}}",
        "tuning.output",
        Reason.SPEC_INVALID,
        "needs an image or a volumeSource",
    ),
    "method in upper case": (
        "{inference: null, tuning: {preset: {name: phi-4}, method: QLoRA, input: {image: a}, "
        "output: {volumeSource: {emptyDir: {}}}}}",
        "tuning.method",
        Reason.SPEC_INVALID,
        "must be lora or qlora, not 'QLoRA'",
    ),
    "tuning from two inputs": (
        """
        inference: null
        tuning:
          preset: {name: phi-4}
          method: lora
          input: {image: a, urls: [b]}
          output: {volumeSource: {emptyDir: {}}}""",
        "tuning.input",
        Reason.SPEC_INVALID,
        "has 2",
    ),
    "push without a secret": (
        "{inference: null, tuning: {preset: {name: phi-4}, method: lora, input: {image: a}, output: {image: b}}}",
        "tuning.output.imagePushSecret",
        Reason.SPEC_INVALID,
        "name the Secret",
    ),
}


@pytest.mark.parametrize(("changes", "path", "reason", "words"), BAD.values(), ids=BAD.keys())
def test_bad_workspaces(
    changes: str, path: str, reason: Reason, words: str, workspace: MakeWorkspace, catalog: Catalog
) -> None:
    verdict = judged(workspace(changes), catalog)
    assert verdict.sizing is None
    assert [(error.path, error.reason) for error in verdict.errors] == [(path, reason)]
    assert words in verdict.errors[0].message


BAD_CONFIGS: dict[str, tuple[str, str]] = {
    "not YAML": ("vllm: [", "not valid YAML: "),
    "a list": ("- vllm", "must be a mapping with the key vllm, not a list"),
    "unknown key": ("vlm: {}", "vlm is not a known key; did you mean vllm?"),
    "vllm is text": ("vllm: fast", "vllm must map arguments to values, not be a text"),
    "unknown argument": (
        "vllm: {max-model-length: 5}",
        "vllm.max-model-length is not an argument of vLLM; did you mean",
    ),
    "argument of the controller": ("vllm: {tensor_parallel_size: 2}", "vllm.tensor_parallel_size cannot be set here"),
    "secret": ("vllm: {api-key: x}", "a ConfigMap is no place for a secret"),
    "negated": ("vllm: {no-enable-lora: true}", "kaito.sh/lora: disabled"),
    "no value": ("vllm: {max-num-seqs: }", "vllm.max-num-seqs has no value"),
    "two spellings": ("vllm: {max-num-seqs: 1, max_num_seqs: 2}", "is set twice"),
    "written twice": ("vllm: {seed: 1, seed: 2}", "the key 'seed' is written twice at line 1"),
    "context is text": ("vllm: {max-model-len: long}", "positive number of tokens"),
    "context is zero": ("vllm: {max-model-len: 0}", "positive number of tokens"),
    "context is true": ("vllm: {max-model-len: true}", "positive number of tokens"),
    "context above the model's": (
        "vllm: {max-model-len: 8192}",
        "8192 is more than the 4096 tokens of phi-3-mini-4k-instruct",
    ),
    "impossible date": ("vllm: {seed: 2001-13-45}", "cannot be read"),
    "endless": ("a" * 70000, "at most 65536"),
}


@pytest.mark.parametrize(("config", "words"), BAD_CONFIGS.values(), ids=BAD_CONFIGS.keys())
def test_bad_configs(config: str, words: str, workspace: MakeWorkspace, catalog: Catalog) -> None:
    verdict = judged(workspace("{inference: {config: mine}}"), catalog, config)
    assert {(error.path, error.reason) for error in verdict.errors} == {("inference.config", Reason.CONFIG_INVALID)}
    message = " ".join(error.message for error in verdict.errors)
    assert words in message
    assert "ConfigMap 'mine'" in message


@pytest.mark.parametrize(
    "config",
    [
        "",
        "vllm:",
        "vllm: {max-model-len: 2k, gpu_memory_utilization: 0.9, no-enable-prefix-caching: true}",
        "vllm: {compilation-config.pass_config.fuse_allreduce_rms: false}",
        "{max_probe_steps: 6, kv_cache_cpu_memory_utilization: 0.5, vllm: {cpu-offload-gb: 0}}",
    ],
)
def test_good_configs(config: str, workspace: MakeWorkspace, catalog: Catalog) -> None:
    assert judged(workspace("{inference: {config: mine}}"), catalog, config).errors == ()


def test_a_missing_config_map_is_told_by_name(workspace: MakeWorkspace, catalog: Catalog) -> None:
    wanted = workspace("{inference: {config: mine}}")
    verdict = validate(wanted, catalog, Settings(), config=ConfigSource(found=False))
    assert [error.reason for error in verdict.errors] == [Reason.CONFIG_MAP_NOT_FOUND]
    assert "'mine'" in verdict.errors[0].message


def test_a_config_map_without_the_key_shows_the_keys(workspace: MakeWorkspace, catalog: Catalog) -> None:
    source = ConfigSource(found=True, data={"inference-config.yaml": ""})
    verdict = validate(workspace("{inference: {config: mine}}"), catalog, Settings(), config=source)
    assert "did you mean inference-config.yaml" in verdict.errors[0].message


def test_the_webhook_judges_without_the_config_map(workspace: MakeWorkspace, catalog: Catalog) -> None:
    assert judged(workspace("{inference: {config: mine}}"), catalog).errors == ()


def test_too_small_for_the_context_names_numbers_and_a_way_out(workspace: MakeWorkspace, catalog: Catalog) -> None:
    wanted = workspace("""
        resource: {instanceType: Standard_NC6s_v3}
        inference: {preset: {name: phi-3-mini-128k-instruct}, config: mine}""")
    verdict = judged(wanted, catalog, "vllm: {max-model-len: 131072}")
    assert [error.reason for error in verdict.errors] == [Reason.INSTANCE_TYPE_TOO_SMALL]
    message = verdict.errors[0].message
    assert "context of 131072 tokens reserves 50.3 GiB" in message
    assert "a GPU of 16.0 GiB offers only 13.4 GiB" in message
    assert "the cheapest that fits is Standard_NC24ads_A100_v4 (1 node at about 3.67 USD an hour)" in message


def test_too_small_for_the_weights_where_the_engine_cannot_span_nodes(
    workspace: MakeWorkspace, catalog: Catalog
) -> None:
    wanted = workspace("{resource: {instanceType: Standard_NC6s_v3}, inference: {preset: {name: phi-4}}}")
    verdict = judged(wanted, catalog)
    assert [error.reason for error in verdict.errors] == [Reason.INSTANCE_TYPE_TOO_SMALL]
    message = verdict.errors[0].message
    assert "27.31 GiB of weights needs 3 nodes with 1 GPU(s) of 16.0 GiB" in message
    assert "gpu-sm70 (vLLM 0.10.2), cannot span nodes" in message
    assert "the cheapest that fits is Standard_NC24ads_A100_v4 (1 node at about 3.67 USD an hour)" in message


def test_the_plan_says_what_was_never_tried_and_what_would_cost_less(
    workspace: MakeWorkspace, catalog: Catalog
) -> None:
    v100 = judged(workspace("{resource: {instanceType: Standard_NC6s_v3}}"), catalog).sizing
    assert v100 is not None
    assert v100.notes == ("engine build gpu-sm70: built and planned, not run on a V100",)
    wanted = workspace("""
        resource: {instanceType: Standard_NV36ads_A10_v5}
        inference: {preset: {name: phi-3-mini-128k-instruct}, config: mine}""")
    many = judged(wanted, catalog, "vllm: {max-model-len: 40000}").sizing
    assert many is not None
    assert many.node_count > 2
    assert "cheaper: Standard_NC24ads_A100_v4 (1 node at about 3.67 USD an hour)" in many.notes[-1]


def test_a_context_that_the_estimator_passes_but_the_cache_cannot_hold(
    workspace: MakeWorkspace, catalog: Catalog
) -> None:
    """KAITO's formula spreads the cache over the node's GPUs even where each serves a whole copy of the model."""
    wanted = workspace("""
        resource: {instanceType: Standard_ND96isr_H100_v5}
        inference: {preset: {name: phi-3-mini-128k-instruct}, config: mine}""")
    assert judged(wanted, catalog, "vllm: {max-model-len: 131072}").sizing is not None
    wanted = workspace("""
        resource: {instanceType: Standard_NV72ads_A10_v5}
        inference: {preset: {name: phi-3-mini-128k-instruct}, config: mine}""")
    verdict = judged(wanted, catalog, "vllm: {max-model-len: 40000}")
    assert [error.reason for error in verdict.errors] == [Reason.INSTANCE_TYPE_TOO_SMALL]
    assert "leaves room for" in verdict.errors[0].message


def test_bypass_turns_the_fit_off(workspace: MakeWorkspace, catalog: Catalog) -> None:
    wanted = workspace("""
        metadata: {annotations: {kaito.sh/bypass-resource-checks: ""}}
        resource: {instanceType: Standard_NC6s_v3}
        inference: {preset: {name: phi-3-mini-128k-instruct}, config: mine}""")
    verdict = judged(wanted, catalog, "vllm: {max-model-len: 131072}")
    assert verdict.errors == ()
    assert verdict.sizing is not None
    assert verdict.sizing.node_count == 1


def test_all_mistakes_are_told_at_once(workspace: MakeWorkspace, catalog: Catalog) -> None:
    wanted = workspace("""
        metadata: {name: '9.9'}
        resource: {instanceType: Nope}
        inference: {preset: {name: nope}, adapters: [{source: {name: a, image: b}, strength: x}]}""")
    assert [error.path for error in judged(wanted, catalog).errors] == [
        "metadata.name",
        "resource.instanceType",
        "inference.preset.name",
        "inference.adapters[0].strength",
    ]


def test_deprecated_fields_are_warned_about(workspace: MakeWorkspace, catalog: Catalog) -> None:
    wanted = workspace("""
        resource: {count: 3, preferredNodes: [a], labelSelector: {matchLabels: {kaito.sh/workspace: x}}}
        inference: {preset: {accessMode: private, presetOptions: {image: "reg/weights:1"}}, config: mine}""")
    verdict = judged(wanted, catalog, "{max_probe_steps: 6}")
    assert verdict.errors == ()
    for word in (
        "preferredNodes",
        "resource.count",
        "reserved",
        "accessMode",
        "presetOptions.image",
        "max_probe_steps",
    ):
        assert any(word in warning for warning in verdict.warnings), word


def test_cluster_settings_can_refuse(workspace: MakeWorkspace, catalog: Catalog) -> None:
    strict = Settings(allow_template=False, allow_host_path=False)
    template = workspace("{inference: {preset: null, template: {spec: {containers: [{name: x}]}}}}")
    local = workspace("{metadata: {annotations: {kaito.sh/use-local-weights: 'true'}}}")
    assert [error.path for error in validate(template, catalog, strict).errors] == ["inference.template"]
    assert [error.path for error in validate(local, catalog, strict).errors] == [
        "metadata.annotations[kaito.sh/use-local-weights]"
    ]


def test_an_override_that_is_no_variant(workspace: MakeWorkspace, catalog: Catalog) -> None:
    verdict = validate(workspace(), catalog, Settings(engine_override="tpu"))
    assert [error.reason for error in verdict.errors] == [Reason.ENGINE_LACKS_GPU]
    assert "engine-override" in verdict.errors[0].message
